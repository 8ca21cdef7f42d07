"""What a project begins with: the files of `agentloop init`, and the tiny base model.

In a checkout the model and Prefect's files are links to those that the checkout itself uses.
"""

from pathlib import Path

PROJECT = Path(__file__).parent / "project"
MODELS = Path(__file__).parent / "models"
TASK = Path(__file__).parent / "task"
"""A task that `agentloop init --task NAME` copies under another name."""
