"""A grid of inputs, every family: losses, log probabilities and LoRA gradients are those of transformers and PEFT in fp32.

Padding on either side, dtypes of ids and masks, positions, rows longer than the window, packed rows, labels of every kind.
"""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from agentloop.engine import FastLanguageModel
from agentloop.engine.batch import IGNORED
from agentloop.engine.lora.buffer import TARGETS

LONG = 75  # more than the window of 64


@pytest.fixture(scope="module")
def pair(checkpoint, cache, fill_adapter):
    """The engine and PEFT with the same adapter."""
    model, _ = FastLanguageModel.from_pretrained(checkpoint, load_in_4bit=False, cache_directory=cache)
    model = FastLanguageModel.get_peft_model(model, r=8, lora_alpha=16)
    fill_adapter(model)
    base = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager")
    peft = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules=rf".*\.({'|'.join(TARGETS)})"))
    views = model.lora.named()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            parameter.data = views[name[name.index("layers.") :].replace(".default", "")].clone()
    return model, peft.eval()


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 250, shape, generator=torch.Generator().manual_seed(sum(shape)))


def padded(lengths: list[int], side: str) -> dict[str, torch.Tensor]:
    width = max(lengths)
    place = torch.arange(width).expand(len(lengths), width)
    size = torch.tensor(lengths)[:, None]
    mask = {"right": place < size, "left": place >= width - size, "both": (place >= 2) & (place < size)}[side]
    labels = ids(len(lengths), width).masked_fill(~mask, IGNORED)
    # The first token of a row that is padded on the left: transformers predicts it from the padding.
    first = mask & (mask.long().cumsum(-1) == 1)
    return {
        "input_ids": ids(len(lengths), width).masked_fill(~mask, 0),
        "attention_mask": mask.long(),
        "labels": labels.masked_fill(first, IGNORED),
    }


def some(inputs: dict[str, torch.Tensor], every: int) -> dict[str, torch.Tensor]:
    """Only some of the labels."""
    place = torch.arange(inputs["labels"].shape[1])
    return inputs | {"labels": inputs["labels"].masked_fill(place % every != 1, IGNORED)}


ROWS = {"input_ids": ids(2, 12), "labels": ids(2, 12)}
INPUTS = {
    "plain": ROWS,
    "one row": {"input_ids": ids(1, 9), "labels": ids(1, 9)},
    "two tokens": {"input_ids": ids(3, 2), "labels": ids(3, 2)},
    "longer than the window": {"input_ids": ids(1, LONG), "labels": ids(1, LONG)},
    "padded right": padded([12, 5, 1], "right"),
    "padded left": padded([12, 5, 2], "left"),
    "padded left, long": padded([LONG, LONG - 20], "left"),
    "padded on both sides": padded([12, 9], "both"),
    "mask of bool": padded([12, 5], "right") | {"attention_mask": padded([12, 5], "right")["attention_mask"].bool()},
    "mask of floats": padded([12, 5], "right") | {"attention_mask": padded([12, 5], "right")["attention_mask"].float()},
    "mask of ones": ROWS | {"attention_mask": torch.ones(2, 12)},
    "ids of int32": {name: each.int() for name, each in ROWS.items()} | {"labels": ROWS["labels"]},
    "not contiguous": {name: each.repeat_interleave(2, 1)[:, ::2] for name, each in ROWS.items()},
    "positions": ROWS | {"position_ids": torch.arange(12).expand(2, 12)},
    "positions of one row": ROWS | {"position_ids": torch.arange(12)[None]},
    "positions later": ROWS | {"position_ids": torch.arange(30, 42)[None]},
    "positions behind padding": padded([12, 5], "left")
    | {"position_ids": (padded([12, 5], "left")["attention_mask"].cumsum(-1) - 1).clamp(min=0)},
    "few labels": some(ROWS, 5),
    "one label": some(ROWS, 12),
    "a row without labels": ROWS | {"labels": ROWS["labels"].where(torch.tensor([[True], [False]]), IGNORED)},
    "few labels, padded": some(padded([LONG, 40], "right"), 6),
    "the number of items": ROWS | {"num_items_in_batch": torch.tensor(40)},
    "the number of items as int": ROWS | {"num_items_in_batch": 7},
    "the same token throughout": {"input_ids": torch.full((2, 9), 7), "labels": torch.full((2, 9), 7)},
}


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True, scope="session")
@pytest.mark.parametrize("inputs", INPUTS.values(), ids=INPUTS)
def test_grid_of_inputs(pair, inputs):
    model, peft = pair
    model.adapter.grad = None
    peft.zero_grad()
    theirs = peft(**inputs, use_cache=False)
    theirs.loss.backward()
    ours = model(**inputs)
    ours.loss.backward()
    torch.testing.assert_close(ours.loss, theirs.loss, rtol=1e-5, atol=1e-5)
    labels = inputs["labels"][:, 1:]
    chances = theirs.logits[:, :-1].log_softmax(-1)
    expected = chances.gather(-1, labels.clamp(min=0).long()[..., None])[..., 0].masked_fill(labels == IGNORED, 0)
    torch.testing.assert_close(ours.log_probs, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(ours.label_mask, labels != IGNORED)
    entropy = -(chances.exp() * chances).sum(-1)[labels != IGNORED]
    torch.testing.assert_close(ours.entropy[ours.label_mask], entropy, rtol=1e-4, atol=1e-4)
    slots = model.lora.named()
    scale = model.adapter.grad.abs().max()
    for name, parameter in peft.named_parameters():
        if "lora_" in name:
            plain = name[name.index("layers.") :].replace(".default", "")
            view = slots[plain]
            own = model.adapter.grad.as_strided(view.shape, view.stride(), view.storage_offset())
            assert (own - parameter.grad).abs().max() <= 1e-4 * scale, plain


@pytest.mark.parametrize("checkpoint", ["gemma3n", "gemma3", "gemma2", "gemma1"], indirect=True, scope="session")
@pytest.mark.parametrize("lengths", [[5, 4, 3], [1, 1, 10], [LONG, 9], [12]])
def test_a_packed_row_is_its_documents(pair, lengths):
    """By positions that start again, without a mask; each document alone is what transformers computes."""
    model, peft = pair
    rows = [ids(1, length + index) for index, length in enumerate(lengths)]
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    whole = torch.cat(rows, 1)
    with torch.no_grad():
        found = model(input_ids=whole, position_ids=positions).logits
        expected = torch.cat([peft(input_ids=row).logits for row in rows], 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4)
