"""TRL's trainer and arguments for scripts that were written for Unsloth, where older spellings are still used.

`SFTTrainer`, `SFTConfig` and `TrainingArguments` are subclasses of TRL's and transformers' own, which stay as they are; old
names are carried over to today's. `old_spellings` makes such a class of any other subclass of SFTTrainer.
"""

from trl import SFTTrainer as _SFTTrainer

from agentloop.engine.trl.arguments import SFTConfig, TrainingArguments
from agentloop.engine.trl.trainers import old_spellings

SFTTrainer = old_spellings(_SFTTrainer)
"""TRL's SFTTrainer, which also takes what it took in earlier versions and in Unsloth's: see `old_spellings`."""

__all__ = ["SFTConfig", "SFTTrainer", "TrainingArguments", "old_spellings"]
