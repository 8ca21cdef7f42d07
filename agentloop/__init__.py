"""agentloop: a tool-using Gemma 3n agent that improves on its tasks on one machine, with evidence."""

__version__ = "0.1.0"
