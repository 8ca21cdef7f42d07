"""Adapters that would be served in part, or on the wrong base, are refused by name; the server goes on."""

import json

import pytest
import torch
from conftest import PROJECTIONS, largest_gap, random_prompt, write_adapter
from safetensors.torch import load_file, save_file

from agentloop.errors import AdapterError
from agentloop.serving import adapters as adapter_files

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(autouse=True)
def still_serving(ask, reference):
    yield
    ids = random_prompt(0, 20)
    assert largest_gap(ask(lambda client: client.prompt_logprobs("base", ids)), reference(None, ids)) < 1e-3


def rewrite(directory, change):
    """Apply `change` to the adapter's tensors, given and returned by their names."""
    save_file(change(load_file(directory / WEIGHTS)), directory / WEIGHTS)


def test_projections_that_shared_layers_do_not_have(server, adapters, copied):
    damaged = copied(adapters["adapter_0"])
    rewrite(
        damaged,
        lambda tensors: (
            tensors
            | {
                name.replace("layers.2.", "layers.4."): tensor.clone()
                for name, tensor in tensors.items()
                if "layers.2.self_attn.k_proj" in name
            }
        ),
    )
    with pytest.raises(AdapterError, match=r"would be dropped: model\.layers\.4\.self_attn\.k_proj$") as refused:
        server.load_adapter("adapter_shared_keys", damaged)
    assert "\n" not in str(refused.value)


def test_layers_that_the_base_does_not_have(server, adapters, copied):
    damaged = copied(adapters["adapter_0"])
    rewrite(
        damaged,
        lambda tensors: (
            tensors
            | {
                name.replace("layers.0.", "layers.9."): tensor.clone()
                for name, tensor in tensors.items()
                if "layers.0." in name
            }
        ),
    )
    with pytest.raises(
        AdapterError, match=r"7 of \d+ modules would be dropped: model\.layers\.9\.mlp\.down_proj.* and 3 more"
    ):
        server.load_adapter("adapter_deep", damaged)


@pytest.mark.parametrize("target", ["altup_unembed_projections.0", "altup_projections.0", "lm_head"])
def test_modules_that_are_not_wrapped(server, checkpoint, tmp_path, target):
    """The first is there under the same name, the second under another, the third is the embedding."""
    directory = write_adapter(
        tmp_path / "extra", checkpoint, seed=1, targets=rf".*\.({'|'.join(PROJECTIONS)})|.*\b{target}"
    )
    with pytest.raises(AdapterError, match=target.partition(".")[0]):
        server.load_adapter("adapter_extra", directory)


def test_matrices_of_a_smaller_model(server, adapters, copied):
    damaged = copied(adapters["adapter_0"])
    rewrite(
        damaged,
        lambda tensors: {
            name: tensor[:, :100].contiguous() if "layers.1.mlp.down_proj.lora_A" in name else tensor
            for name, tensor in tensors.items()
        },
    )
    with pytest.raises(
        AdapterError,
        match=r"does not fit the base: model\.layers\.1\.mlp\.down_proj maps 100 to 128, the base 384 to 128",
    ):
        server.load_adapter("adapter_small", damaged)


def test_half_a_pair(server, adapters, copied):
    damaged = copied(adapters["adapter_0"])
    rewrite(
        damaged,
        lambda tensors: {
            name: tensor for name, tensor in tensors.items() if "layers.3.self_attn.o_proj.lora_B" not in name
        },
    )
    with pytest.raises(AdapterError, match=r"layers\.3\.self_attn\.o_proj lacks lora_B"):
        server.load_adapter("adapter_half", damaged)


def test_rank_above_the_server_s(server, checkpoint, tmp_path, adapters, copied):
    damaged = copied(adapters["adapter_0"])
    config = json.loads((damaged / "adapter_config.json").read_text())
    (damaged / "adapter_config.json").write_text(json.dumps(config | {"r": 64}))
    rewrite(
        damaged,
        lambda tensors: {
            name: torch.cat([tensor] * 4, dim=0 if "lora_A" in name else 1) for name, tensor in tensors.items()
        },
    )
    with pytest.raises(AdapterError, match="rank 64"):
        server.load_adapter("adapter_rank", damaged)


def test_fingerprint_of_another_base(server, adapters, copied):
    other = copied(adapters["adapter_0"])
    (other / "agentloop.json").write_text(json.dumps({"base": "base_fedcba9876543210"}))
    with pytest.raises(AdapterError, match="trained on base_fedcba9876543210, but base_0123456789abcdef is served"):
        server.load_adapter("adapter_other", other)


def test_name_of_another_base(server, adapters, copied):
    other = copied(adapters["adapter_0"])
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": "google/gemma-3n-E2B-it"})
    )
    with pytest.raises(AdapterError, match="trained on gemma-3n-E2B-it, but tiny is served"):
        server.load_adapter("adapter_other", other)


def test_own_base_is_accepted_by_either_name(adapters, copied, checkpoint):
    own = copied(adapters["adapter_0"])
    adapter_files.check_base(own, fingerprint=None, model=checkpoint)
    (own / "agentloop.json").write_text(json.dumps({"base": "base_0123456789abcdef"}))
    adapter_files.check_base(own, fingerprint="base_0123456789abcdef", model=checkpoint)


def test_missing_weights(server, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="no adapter_model.safetensors"):
        server.load_adapter("adapter_empty", tmp_path)


def test_a_name_never_changes_meaning(server, adapters, copied):
    server.load_adapter("adapter_0", adapters["adapter_0"])  # loaded already: nothing happens
    with pytest.raises(AdapterError, match="a name never changes meaning"):
        server.load_adapter("adapter_0", adapters["adapter_1"])


def test_unloading_what_is_not_loaded(server):
    with pytest.raises(AdapterError, match="adapter_nobody"):
        server.unload_adapter("adapter_nobody")
