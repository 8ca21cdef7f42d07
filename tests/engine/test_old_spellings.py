"""Trainers by their older arguments: the same training as by today's, and nothing else changed."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model

from agentloop.engine import FastLanguageModel, old_spellings
from agentloop.engine.trl import SFTConfig, SFTTrainer, TrainingArguments
from agentloop.errors import SettingError

TEXTS = Dataset.from_dict({"text": [f"How many are {n} and {n + 1} apples? It is {2 * n + 1} ." for n in range(12)]})
LOGGED = ("loss", "grad_norm", "mean_token_accuracy", "num_tokens")


@pytest.fixture(scope="module")
def loaded(checkpoint, cache):
    return FastLanguageModel.from_pretrained(checkpoint, max_seq_length=64, cache_directory=cache)


@pytest.fixture
def model(loaded):
    return FastLanguageModel.get_peft_model(loaded[0], r=8, lora_alpha=16)


@pytest.fixture
def bare(checkpoint, cache):
    """Without an adapter."""
    return FastLanguageModel.from_pretrained(checkpoint, max_seq_length=64, cache_directory=cache)[0]


@pytest.fixture
def tokenizer(loaded):
    return loaded[1]


@pytest.fixture
def usual(tmp_path) -> dict:
    return dict(
        output_dir=str(tmp_path / "out"), per_device_train_batch_size=2, max_steps=3, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", optim="adamw_8bit", seed=1, disable_tqdm=True,
    )  # fmt: skip


def train(trainer) -> list[dict[str, float]]:
    trainer.train()
    return [{name: row[name] for name in LOGGED} for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize(
    "kind, packing",
    [("transformers", False), ("TrainingArguments", True), ("SFTConfig", False), ("SFTConfig", True), ("none", True)],
)
def test_the_same_steps(model, tokenizer, usual, kind, packing):
    today = trl.SFTConfig(
        **usual, dataset_text_field="text", max_length=48, packing=packing, report_to="none", use_cpu=True
    )
    model.unload()
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    expected = train(trl.SFTTrainer(model=model, processing_class=tokenizer, train_dataset=TEXTS, args=today))
    model.unload()
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    loose = dict(dataset_text_field="text", max_seq_length=48, dataset_num_proc=1, packing=packing)
    if kind == "none":
        args, loose = None, loose | usual
    elif kind == "SFTConfig":
        args, loose = SFTConfig(**usual, **loose), {}
    else:
        args = (
            TrainingArguments(**usual)
            if kind != "transformers"
            else transformers.TrainingArguments(**usual, use_cpu=True)
        )
    before = copy.copy(vars(args)) if args else None
    trainer = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=TEXTS, args=args, **loose)
    assert isinstance(trainer, trl.SFTTrainer) and trainer.args.max_length == 48
    found = train(trainer)
    assert len(found) == 3
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-5)
    assert args is None or {name: vars(args)[name] for name in before} == before


def test_nothing_else_is_changed(model, tokenizer, usual):
    """TRL's own classes refuse today what they refused before."""
    before = inspect.signature(trl.SFTTrainer.__init__)
    SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=TEXTS, args=SFTConfig(**usual))
    assert inspect.signature(trl.SFTTrainer.__init__) == before
    with pytest.raises(TypeError, match="tokenizer"):
        trl.SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=TEXTS)
    with pytest.raises(TypeError, match="max_seq_length"):
        trl.SFTConfig(max_seq_length=48)


def test_a_trainer_of_ones_own(model, tokenizer, usual):
    class Counting(trl.SFTTrainer):
        steps = 0

        def training_step(self, *args, **options):
            self.steps += 1
            return super().training_step(*args, **options)

    trainer = old_spellings(Counting)(model=model, tokenizer=tokenizer, train_dataset=TEXTS, max_seq_length=48, **usual)
    trainer.train()
    assert trainer.steps == 3 and type(trainer).__name__ == "Counting"


@pytest.mark.parametrize(
    "args, loose, expected",
    [
        ({}, {}, 64),  # the model's
        ({"max_length": 32}, {}, 32),
        ({"max_length": 1024}, {}, 64),
        ({"max_seq_length": 32}, {}, 32),
        ({}, {"max_seq_length": 32}, 32),
        ({}, {"max_seq_length": None}, 64),
        ({"max_length": None}, {}, 64),
    ],
)
def test_lengths(model, tokenizer, usual, args, loose, expected, recwarn):
    trainer = SFTTrainer(
        model=model, tokenizer=tokenizer, train_dataset=TEXTS, args=SFTConfig(**usual, **args), **loose
    )
    assert trainer.args.max_length == expected
    assert [w for w in recwarn if "cut to the model's" in str(w.message)] == [] or args == {"max_length": 1024}
    plain = SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=TEXTS, args=TrainingArguments(**usual), **loose)
    assert plain.args.max_length == (loose.get("max_seq_length") or 64)


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_seq_length": 32, "args": SFTConfig("out", max_length=48)}, {"packing": False, "args": SFTConfig("out", packing=True)},
        {"args": object()}, {"tokenizer": "another", "processing_class": "this"},
    ],
    ids=["length", "packing", "no arguments", "tokenizer"],
)  # fmt: skip
def test_contradictions_are_one_line(model, arguments):
    with pytest.raises(SettingError) as error:
        SFTTrainer(model=model, train_dataset=TEXTS, **arguments)
    assert next(iter(arguments)).replace("seq_", "") in str(error.value).replace("seq_", "")
    assert "\n" not in str(error.value)


def test_older_arguments(usual, tmp_path):
    args = SFTConfig(
        **usual, evaluation_strategy="steps", eval_steps=1, warmup_ratio=0.1, group_by_length=True, overwrite_output_dir=True,
        save_safetensors=True, max_seq_length=48,
    )  # fmt: skip
    assert (args.eval_strategy, args.warmup_steps, args.train_sampling_strategy) == ("steps", 0.1, "group_by_length")
    assert args.use_cpu == (not torch.cuda.is_available())
    assert SFTConfig("out", report_to="none").report_to == []
    with pytest.raises(SettingError, match="^max_seq_length: 48, but max_length is 32"):
        SFTConfig(**usual, max_seq_length=48, max_length=32)
    with pytest.raises(TypeError, match="learnign_rate"):
        SFTConfig(learnign_rate=1)


@pytest.mark.parametrize("logging_dir", [None, "logs"])
def test_tensorboard_finds_its_files(model, tokenizer, usual, tmp_path, logging_dir):
    folder = {"logging_dir": str(tmp_path / logging_dir)} if logging_dir else {}
    args = TrainingArguments(**usual, **folder)
    SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=TEXTS, args=args).train()
    found = list(tmp_path.rglob("events.out.tfevents*"))
    assert len(found) == 1 and found[0].is_relative_to(tmp_path / (logging_dir or "out"))


def test_formatting_of_batches_and_of_rows(model, tokenizer, usual):
    rows = Dataset.from_dict({"question": ["How many are 3 ?", "How many are 4 ?"], "answer": ["3 .", "4 ."]})

    def batch(examples):
        return [f"{q} It is {a}" for q, a in zip(examples["question"], examples["answer"], strict=True)]

    def one(example):
        return f"{example['question']} It is {example['answer']}"

    ids = [
        SFTTrainer(model=model, tokenizer=tokenizer, train_dataset=rows, formatting_func=each, args=SFTConfig(**usual))
        .train_dataset[:]["input_ids"]
        for each in (batch, one)
    ]  # fmt: skip
    assert ids[0] == ids[1]
    assert "How many are 4 ? It is 4 ." in tokenizer.decode(ids[0][1])


def test_one_bos(model, tokenizer, usual):
    """Texts of a chat template begin with <bos>, and the tokenizer adds it once more where it is one that does."""
    adding = copy.deepcopy(tokenizer)
    from tokenizers.processors import TemplateProcessing

    adding.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", adding.bos_token_id)]
    )
    assert adding("a").input_ids[0] == adding.bos_token_id
    texts = Dataset.from_dict({"text": ["<bos>How many are 3 ?"], "conversations": [[{"from": "human", "value": "x"}]]})
    trainer = SFTTrainer(model=model, tokenizer=adding, train_dataset=texts, args=SFTConfig(**usual))
    (ids,) = trainer.train_dataset[:]["input_ids"]
    assert ids.count(adding.bos_token_id) == 1
    assert tokenizer.decode(ids).startswith("<bos>How many are 3 ?")


def test_standardised_conversations_are_messages(model, tokenizer, usual):
    turns = [{"role": "user", "content": "How many ?"}, {"role": "assistant", "content": "3"}]
    ids = [
        SFTTrainer(
            model, SFTConfig(**usual), None, Dataset.from_list([{name: turns}]), tokenizer=tokenizer
        ).train_dataset[0]
        for name in ("conversations", "messages")
    ]
    assert ids[0]["input_ids"] == ids[1]["input_ids"]
    assert "How many ?<end_of_turn>" in tokenizer.decode(ids[0]["input_ids"])


def test_the_names_beside_the_model():
    from agentloop import engine

    assert engine.SFTTrainer is SFTTrainer and engine.SFTConfig is SFTConfig
    with pytest.raises(ImportError, match="FastVisionModel"):
        from agentloop.engine import FastVisionModel  # noqa: F401


def test_peft_config_becomes_the_adapter(bare, tokenizer, usual, tmp_path):
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], use_rslora=True, task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=bare, tokenizer=tokenizer, train_dataset=TEXTS, peft_config=config, args=SFTConfig(**usual)
    )
    losses = [row["loss"] for row in train(trainer)]
    assert losses[-1] < losses[0]
    settings = trainer.model.lora.settings
    assert (settings.rank, settings.scale, set(settings.targets)) == (4, 4.0, {"q_proj", "down_proj"})
    with pytest.raises(SettingError, match="^peft_config: the model has an adapter already"):
        SFTTrainer(model=bare, tokenizer=tokenizer, train_dataset=TEXTS, peft_config=config, args=SFTConfig(**usual))


@pytest.mark.parametrize(
    "config, expected",
    [
        (LoraConfig(target_modules="all-linear", lora_dropout=0.1), "lora_dropout"),
        (LoraConfig(target_modules="all-linear", use_dora=True), "use_dora"),
        (LoraConfig(target_modules="all-linear", modules_to_save=["lm_head"]), "modules_to_save"),
        (PrefixTuningConfig(num_virtual_tokens=2), "PrefixTuningConfig"),
    ],
    ids=["dropout", "dora", "modules_to_save", "prefix"],
)
def test_a_peft_config_that_is_not_supported(bare, tokenizer, usual, config, expected):
    with pytest.raises(SettingError, match=f"^peft_config: .*{expected}"):
        SFTTrainer(model=bare, tokenizer=tokenizer, train_dataset=TEXTS, peft_config=config, args=SFTConfig(**usual))


@pytest.mark.parametrize("targets", ["all-linear", None, ["q_proj"]], ids=str)
def test_peft_itself_says_what_to_call(bare, model, tokenizer, usual, targets, tmp_path):
    """TRL's own trainer too, whose message would be PEFT's: that no module was found."""
    config = LoraConfig(target_modules=targets, task_type="CAUSAL_LM")
    args = trl.SFTConfig(**usual, use_cpu=True)
    model.save_pretrained(tmp_path / "adapter")
    for attempt in (
        lambda: trl.SFTTrainer(
            model=bare, processing_class=tokenizer, train_dataset=TEXTS, args=args, peft_config=config
        ),
        lambda: get_peft_model(bare, config),
        lambda: PeftModel.from_pretrained(bare, tmp_path / "adapter"),
    ):
        with pytest.raises(
            SettingError, match="^peft_config: PEFT cannot adapt this model: FastLanguageModel"
        ) as error:
            attempt()
        assert "\n" not in str(error.value)


PAIRS = Dataset.from_dict({"prompt": ["How many ?"] * 4, "chosen": [" 3 ."] * 4, "rejected": [" 4 ."] * 4})
LABELLED = Dataset.from_dict({"prompt": ["How many ?"] * 4, "completion": [" 3 ."] * 4, "label": [True, False] * 2})


def test_other_objectives_are_refused_by_name(model, tokenizer, tmp_path):
    """Each as it is made: not after the reference model was loaded, and not in the middle of a run."""
    common = dict(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    made = {
        "DPOTrainer": lambda: trl.DPOTrainer(
            model=model, processing_class=tokenizer, train_dataset=PAIRS, args=trl.DPOConfig(**common)
        ),
        "KTOTrainer": lambda: trl.KTOTrainer(
            model=model, processing_class=tokenizer, train_dataset=LABELLED, args=trl.KTOConfig(**common)
        ),
        "GRPOTrainer": lambda: trl.GRPOTrainer(
            model=model, processing_class=tokenizer, train_dataset=PAIRS, reward_funcs=lambda completions, **_: [0.0],
            args=trl.GRPOConfig(**common),
        ),
        "RLOOTrainer": lambda: trl.RLOOTrainer(
            model=model, processing_class=tokenizer, train_dataset=PAIRS, reward_funcs=lambda completions, **_: [0.0],
            args=trl.RLOOConfig(**common),
        ),
    }  # fmt: skip
    for name, make in made.items():
        with pytest.raises(SettingError, match=f"^{name}: its objective is not supported") as error:
            make()
        assert "\n" not in str(error.value)
    args = transformers.TrainingArguments(**common)
    rows = [{"input_ids": torch.tensor([5, 6, 7]), "labels": torch.tensor([5, 6, 7])}] * 2
    transformers.Trainer(model=model, args=args, train_dataset=rows)
