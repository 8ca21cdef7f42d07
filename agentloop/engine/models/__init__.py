"""The layers of each generation of Gemma, with their weights; what they have in common stands beside their folders."""
