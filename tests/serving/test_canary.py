"""Four faults, planted in the real server, and each is caught and called by its name."""

import asyncio
import shutil

import pytest
from conftest import Reference, random_prompt, write_adapter
from safetensors.torch import load_file, save_file

from agentloop.errors import CanaryError
from agentloop.serving import canary
from agentloop.serving.client import CompletionClient
from agentloop.tiny.architecture import random_checkpoint

PROMPTS = [random_prompt(seed, 60) for seed in (31, 32, 33)]
TOLERANCE = 1e-3
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def look(server, settings):
    """`look(name, directory, reference, …)`: the canary on what the shared server serves as `name`."""

    def run(name, directory, reference, **options):
        async def with_client():
            async with CompletionClient([server.endpoint], settings.serving) as client:
                return await canary.check(
                    client,
                    base_name="base",
                    adapter_name=name,
                    directory=directory,
                    prompts=PROMPTS,
                    reference=reference,
                    tolerance=TOLERANCE,
                    **options,
                )

        return asyncio.run(with_client())

    return run


def test_what_is_served_rightly_passes(look, adapters, reference):
    report = look("adapter_0", adapters["adapter_0"], reference)
    assert report.passed and report.tokens == 3 * 59
    assert report.base_max < TOLERANCE and report.adapter_max < TOLERANCE < report.effect_mean


def test_adapter_not_applied(look, server, adapters, reference, copied):
    empty = copied(adapters["adapter_0"])
    save_file(
        {name: tensor * (0 if "lora_B" in name else 1) for name, tensor in load_file(empty / WEIGHTS).items()},
        empty / WEIGHTS,
    )
    server.load_adapter("adapter_without_effect", empty)
    with pytest.raises(CanaryError, match="^adapter not applied: the base answers in its place"):
        look("adapter_without_effect", adapters["adapter_0"], reference)


def test_adapter_applied_in_part(look, server, adapters, reference, copied):
    part = copied(adapters["adapter_1"])
    save_file({name: tensor for name, tensor in load_file(part / WEIGHTS).items() if ".mlp." in name}, part / WEIGHTS)
    server.load_adapter("adapter_mlp_only", part)
    with pytest.raises(CanaryError, match=r"^adapter applied in part: \d\d% of its effect is served"):
        look("adapter_mlp_only", adapters["adapter_1"], reference)


def test_stale_adapter(look, server, checkpoint, reference, adapters, tmp_path):
    """The file is written anew under the same name, and the server still serves the old weights."""
    directory = write_adapter(tmp_path / "current", checkpoint, seed=41)
    earlier = shutil.copytree(directory, tmp_path / "earlier")
    server.load_adapter("adapter_current", directory)
    shutil.rmtree(directory)
    write_adapter(directory, checkpoint, seed=42)
    with pytest.raises(CanaryError, match="^stale adapter: earlier is served under this name"):
        look("adapter_current", directory, reference, earlier=[adapters["adapter_0"], earlier])
    with pytest.raises(CanaryError, match="^stale adapter: what is served has little in common with what was trained"):
        look("adapter_current", directory, reference)


def test_another_base(look, adapters, tmp_path):
    random_checkpoint(tmp_path / "tiny", seed=9)
    with pytest.raises(CanaryError, match="^another base: without the adapter, served and trained differ"):
        look("adapter_0", adapters["adapter_0"], Reference(tmp_path / "tiny"))


def test_nothing_finite_is_no_pass():
    rows, nothing = [[-1.0, -2.0]], [[float("nan"), -2.0]]
    with pytest.raises(CanaryError, match="^another base"):
        canary.compare(served_base=nothing, served_adapter=rows, base=rows, adapter=rows, tolerance=1.0)
    with pytest.raises(CanaryError):
        canary.compare(served_base=rows, served_adapter=nothing, base=rows, adapter=rows, tolerance=1.0)
