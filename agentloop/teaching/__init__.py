"""Demonstrations: what a model is to say at a task, from experts, files, the store or a teacher, acted like any episode."""
