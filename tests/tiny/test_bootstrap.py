"""The recipe, with few steps: the loss falls, the same seed gives the same weights, and what is written can be used."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agentloop import environments
from agentloop.project import CHECKOUT
from agentloop.records import Sampling
from agentloop.rollout.prompt import PromptFormat
from agentloop.tiny import bootstrap as module
from agentloop.tiny import demonstrations
from agentloop.tiny.bootstrap import bootstrap, weights_hash
from agentloop.tiny.demonstrations import act, teach_tokenizer, write
from agentloop.tiny.sampling import sample
from agentloop.tiny.warm_start import masked_loss

SHIPPED = CHECKOUT / "models" / "tiny"
STEPS = 6


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(module, "MEASURED_TASKS", 4)
    patch.setattr(module, "MEASURED_SAMPLES", 2)
    patch.setattr(demonstrations, "VOCABULARY_DEMONSTRATIONS", 100)
    root = tmp_path_factory.mktemp("models")
    seen = []
    report = bootstrap(
        root / "tiny", seed=5, steps=STEPS, progress=lambda step, steps, loss: seen.append((step, steps, loss))
    )
    again = bootstrap(root / "again", seed=5, steps=STEPS)
    patch.undo()
    return root, report, again, seen


def test_loss_falls_and_is_reported(built):
    _, report, _, seen = built
    assert [step for step, _, _ in seen] == list(range(1, STEPS + 1)) and {steps for _, steps, _ in seen} == {STEPS}
    assert seen[-1][2] < 0.8 * seen[0][2]


def test_the_same_seed_gives_the_same_weights(built):
    root, report, again, _ = built
    assert again == report
    first, second = (AutoModelForCausalLM.from_pretrained(root / name) for name in ("tiny", "again"))
    assert weights_hash(first) == weights_hash(second) == report.weights
    assert (root / "tiny" / "tokenizer.json").read_bytes() == (root / "again" / "tokenizer.json").read_bytes()


def test_writes_the_recipe_beside_the_weights_and_nothing_partial(built):
    root, report, _, _ = built
    recipe = json.loads((root / "tiny" / "recipe.json").read_text())
    assert recipe["weights"] == report.weights and recipe["settings"]["steps"] == STEPS and recipe["measured"]
    assert report.weights in (root / "tiny" / "README.md").read_text()
    assert sorted(path.name for path in root.iterdir()) == ["again", "tiny"]


def test_demonstrations_are_episodes_of_the_demonstration_split(built):
    environment = environments.get("arithmetic")
    tokenizer = AutoTokenizer.from_pretrained(SHIPPED)
    written = write(environment, 40, seed=0)
    prompt = PromptFormat(tokenizer, describe_tools=False)
    for demonstration, trajectory in zip(written, act(written, environment, tokenizer)):
        assert trajectory.task.split == "demonstration" and trajectory.status == "answered"
        spoken = [token for token, own in zip(trajectory.token_ids, trajectory.mask) if own]
        end = prompt.stop_token_ids[0]
        assert spoken == [
            token for turn in demonstration.turns for token in (*tokenizer.encode(turn, add_special_tokens=False), end)
        ]
        assert trajectory.answer == demonstration.turns[-1].removeprefix("Answer: ")
        assert len(trajectory.token_ids) < 200


def test_loss_counts_the_models_own_tokens_only(built):
    root, *_ = built
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "tiny"), AutoTokenizer.from_pretrained(root / "tiny")
    environment = environments.get("arithmetic")
    batch = act(write(environment, 3, seed=0), environment, tokenizer)
    with torch.no_grad():
        total = count = 0
        for trajectory in batch:
            logprobs = model(torch.tensor([trajectory.token_ids])).logits[0].log_softmax(-1)
            for position, own in enumerate(trajectory.mask):
                if own:
                    total -= logprobs[position - 1, trajectory.token_ids[position]].item()
                    count += 1
        assert masked_loss(model, batch).item() == pytest.approx(total / count, rel=1e-4)


def test_in_process_sampling_records_the_models_own_logprobs(built):
    """Batched, padded and cached decoding gives the same distribution as one plain forward pass."""
    root, *_ = built
    model, tokenizer = AutoModelForCausalLM.from_pretrained(root / "tiny"), AutoTokenizer.from_pretrained(root / "tiny")
    environment = environments.get("arithmetic")
    tasks = environment.tasks("heldout", 3, seed=0)
    sampling = Sampling(max_turns=2, max_turn_tokens=24, max_tokens=200)
    groups = sample(model, tokenizer, environment, tasks, 2, sampling)
    assert _ids(groups) == _ids(sample(model, tokenizer, environment, tasks, 2, sampling))
    for trajectory in (trajectory for group in groups for trajectory in group):
        with torch.no_grad():
            logprobs = model(torch.tensor([trajectory.token_ids])).logits[0].log_softmax(-1)
        for position, own in enumerate(trajectory.mask):
            if own:
                exact = logprobs[position - 1, trajectory.token_ids[position]].item()
                assert trajectory.logprobs[position] == pytest.approx(exact, abs=1e-3)


def _ids(groups):
    return [[trajectory.token_ids for trajectory in group] for group in groups]


def test_shipped_model_is_the_recipes(built):
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) <= 8 * 2**20
    recipe = json.loads((SHIPPED / "recipe.json").read_text())
    assert weights_hash(AutoModelForCausalLM.from_pretrained(SHIPPED)) == recipe["weights"]
    # The tokenizer is rebuilt from the environments: it changes when their words do, and the model must be made again.
    rebuilt = teach_tokenizer(environments.get(module.RECIPES["tiny"].environment), recipe["seed"])
    assert rebuilt.get_vocab() == AutoTokenizer.from_pretrained(SHIPPED).get_vocab()
    (measured,) = (entry for entry in recipe["measured"] if entry["environment"] == "arithmetic")
    assert 0.25 < measured["success"] < 0.5 and measured["solved"] > 0.8
