"""Libraries that take the model for one of transformers' own: they are told in one line what to call instead.

Without that PEFT would say that it found no module, and TRL's trainers of other objectives would fail while they load a second
copy of the base, or in the middle of a run.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

from agentloop.errors import SettingError


def refuse_peft(caller: FrameType | None) -> None:
    """Raise SettingError where PEFT looks through the model for modules to adapt."""
    if caller is not None and caller.f_globals.get("__name__", "").partition(".")[0] == "peft":
        raise SettingError(
            "peft_config: PEFT cannot adapt this model: FastLanguageModel.get_peft_model gives it an adapter, and "
            "FastLanguageModel.from_pretrained loads one from its directory"
        )


def refuse_objective(caller: FrameType | None) -> None:
    """Raise SettingError where one of TRL's trainers is made whose loss the model does not compute."""
    trainer: Any = caller.f_locals.get("self") if caller is not None else None
    classes = type(trainer).__mro__
    if any(each.__module__.partition(".")[0] == "trl" for each in classes):
        if not any(each.__name__ == "SFTTrainer" for each in classes):
            raise SettingError(
                f"{type(trainer).__name__}: its objective is not supported, only SFTTrainer's and that of transformers' Trainer"
            )
