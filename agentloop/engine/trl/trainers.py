"""A trainer that takes the arguments of its earlier versions, as a class of its own."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import warnings
from typing import Any

from agentloop.engine.api.language_model import FastLanguageModel
from agentloop.errors import SettingError

LORA = {
    "r": "r", "lora_alpha": "lora_alpha", "target_modules": "target_modules", "lora_dropout": "lora_dropout",
    "bias": "bias", "use_rslora": "use_rslora", "layers_to_transform": "layers_to_transform",
    "layers_pattern": "layers_pattern", "init_lora_weights": "init_lora_weights", "modules_to_save": "modules_to_save",
}  # fmt: skip
"""PEFT's settings of LoRA -> the arguments of get_peft_model."""
_SAYS_NOTHING = {
    "task_type", "peft_type", "peft_version", "inference_mode", "base_model_name_or_path", "revision", "auto_mapping",
}  # fmt: skip


def old_spellings(trainer: type) -> type:
    """Return a subclass of TRL's SFTTrainer, or of a class of your own above it, that takes older scripts' arguments too.

    `tokenizer` is `processing_class`. Settings of the data (`dataset_text_field`, `max_seq_length`, `packing`,
    `dataset_num_proc` and every other field of SFTConfig) may stand beside `args`, which is copied and not changed. Where no
    length is given it is the model's `max_seq_length`, and a longer one is cut to that. A `formatting_func` may take a batch
    and return a list. `peft_config` of LoRA becomes the model's own adapter. `trainer` itself, and every other class, stays
    as it is.
    """

    class Trainer(trainer):
        def __init__(self, model: Any = None, args: Any = None, *more: Any, **given: Any) -> None:
            from agentloop.engine.trl import rows

            places = list(inspect.signature(trainer).parameters)[2:]
            given = _renamed(dict(zip(places, more)) | given)
            args = configured(args, given, model)
            if (config := given.pop("peft_config", None)) is not None:
                model = adapted(model, config, args.seed)
            field, tokenizer = args.dataset_text_field, given.get("processing_class")
            for name in ("train_dataset", "eval_dataset"):
                if tokenizer is not None and given.get(name) is not None and given.get("formatting_func") is None:
                    given[name] = rows.prepared(given[name], field, tokenizer)
            if (formatting := given.get("formatting_func")) is not None and given.get("train_dataset") is not None:
                given["formatting_func"] = rows.by_row(formatting, next(iter(given["train_dataset"])))
            super().__init__(model=model, args=args, **given)
            if folder := getattr(args, "logging_dir", None):
                for callback in self.callback_handler.callbacks:
                    if type(callback).__name__ == "TensorBoardCallback":
                        callback.logging_dir = folder

    Trainer.__name__ = Trainer.__qualname__ = trainer.__name__
    Trainer.__doc__ = trainer.__doc__
    return Trainer


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    if "tokenizer" in given:
        tokenizer = given.pop("tokenizer")
        if given.setdefault("processing_class", tokenizer) is not tokenizer:
            raise SettingError("tokenizer: processing_class is given too, and is another one")
    return given


def configured(args: Any, given: dict[str, Any], model: Any) -> Any:
    """A copy of `args` as an SFTConfig, with the settings that stand in `given`, from which they are taken out.

    Raises SettingError where `args` sets one of them to something else.
    """
    import transformers
    import trl

    from agentloop.engine.trl.arguments import GONE, SFTConfig, today

    fields = {field.name: field for field in dataclasses.fields(trl.SFTConfig) if field.init}
    names = {name for name in given if name in fields or name in GONE or name in ("max_seq_length", "infinite")}
    loose = today({name: given.pop(name) for name in names}, set(fields))
    loose.pop("infinite", None)
    if args is None:
        name = str(getattr(model, "directory", None) or "model").rpartition("/")[2]
        return configured(SFTConfig(**({"output_dir": f"{name}-SFT"} | loose)), {}, model)
    if not isinstance(args, trl.SFTConfig):
        if not isinstance(args, transformers.TrainingArguments):
            raise SettingError(f"args: {type(args).__name__} is neither SFTConfig nor TrainingArguments")
        older = {name: getattr(args, name) for name in ("logging_dir",) if hasattr(args, name)}
        values = args.to_dict() | {"hub_token": args.hub_token}
        args = SFTConfig(**{name: value for name, value in values.items() if name in fields} | older)
        args.length_given = False
    else:
        args = copy.copy(args)
    default = fields["max_length"].default
    length_given = getattr(args, "length_given", args.max_length != default)
    for name, value in loose.items():
        there, field = getattr(args, name), fields[name]
        untouched = there == field.default or (name == "max_length" and not length_given)
        if there != value and not untouched:
            raise SettingError(f"{name}: {value!r}, but args says {there!r}")
        setattr(args, name, value)
    longest = getattr(model, "max_seq_length", None)
    if isinstance(longest, int):
        length_given = length_given or "max_length" in loose
        if length_given and args.max_length is not None and args.max_length > longest:
            warnings.warn(
                f"max_length: {args.max_length}, cut to the model's max_seq_length of {longest}", stacklevel=4
            )
        if not length_given or args.max_length is None or args.max_length > longest:
            args.max_length = longest
    return args


def adapted(model: Any, config: Any, seed: int) -> Any:
    """The model with the fresh adapter that PEFT's `config` describes, A drawn from `seed`.

    Raises SettingError where the model has an adapter, or for what is not supported.
    """
    from peft import LoraConfig

    if not isinstance(config, LoraConfig):
        raise SettingError(f"peft_config: {type(config).__name__} is not supported, only LoraConfig")
    if getattr(model, "_lora", None) is not None:
        raise SettingError("peft_config: the model has an adapter already; leave one of the two out")
    usual = LoraConfig().to_dict()
    changed = {name: value for name, value in config.to_dict().items() if value != usual.get(name)}
    options = {name: value for name, value in changed.items() if name not in _SAYS_NOTHING}
    if unknown := sorted(options.keys() - LORA.keys()):
        raise SettingError(f"peft_config: {unknown[0]} {options[unknown[0]]!r} is not supported")
    options = {"r": config.r, "lora_alpha": config.lora_alpha} | options
    if isinstance(options.get("target_modules"), set):
        options["target_modules"] = sorted(options["target_modules"])
    elif config.target_modules is None:
        options["target_modules"] = _usual_targets(model)
    try:
        return FastLanguageModel.get_peft_model(model, random_state=seed, **options)
    except SettingError as error:
        raise SettingError(f"peft_config: {error}") from None


def _usual_targets(model: Any) -> list[str]:
    """What PEFT adapts where a configuration does not say."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as usual

    kind = model.config.get_text_config().model_type
    if kind not in usual:
        raise SettingError("target_modules: PEFT knows none for this model; name them, or 'all-linear'")
    return list(usual[kind])
