"""What users call: FastLanguageModel, the model as trainers see it, and what both accept and return."""
