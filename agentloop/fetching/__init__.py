"""Models from elsewhere. Nothing here runs unless a person has asked for exactly that model."""
