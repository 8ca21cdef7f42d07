"""Every setting and every fixed path. Nothing else reads the environment.

Values come from a profile, then `agentloop.toml`, then the environment (`AGENTLOOP_TRAINING__RANK=32`), then the command line
(`training.rank=32`); the later wins. Unknown names are errors. `Settings.export()` must run before torch, triton,
transformers or vllm is imported: these read their cache paths from the environment once, at import.

What every setting means is in `sections.py` and `settings.py`.
"""

from agentloop.settings.loading import PROFILES, for_the_engine, load, prepare_libraries
from agentloop.settings.sections import (
    Agent,
    Bounds,
    Collect,
    Dpo,
    Evaluate,
    Gate,
    Grpo,
    Guard,
    Kto,
    Paths,
    Retention,
    Section,
    Selection,
    Serving,
    Sft,
    Teach,
    Training,
)
from agentloop.settings.settings import Settings
from agentloop.settings.values import RECIPES, home_expanded
from agentloop.settings.variables import CONFIG_VARIABLE, ENV_PREFIX, EXPORTED_VARIABLE, OWN_VARIABLES
from agentloop.settings.words import parse_overrides

__all__ = [
    "CONFIG_VARIABLE",
    "ENV_PREFIX",
    "EXPORTED_VARIABLE",
    "OWN_VARIABLES",
    "PROFILES",
    "RECIPES",
    "Agent",
    "Bounds",
    "Collect",
    "Dpo",
    "Evaluate",
    "Gate",
    "Grpo",
    "Guard",
    "Kto",
    "Paths",
    "Retention",
    "Section",
    "Selection",
    "Serving",
    "Settings",
    "Sft",
    "Teach",
    "Training",
    "for_the_engine",
    "home_expanded",
    "load",
    "parse_overrides",
    "prepare_libraries",
]
