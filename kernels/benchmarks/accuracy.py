"""Is the engine's 16-bit step as accurate as transformers' own? Real widths, few layers, random weights, a CUDA machine.

    python kernels/benchmarks/accuracy.py [--family gemma3n] [--dtype bfloat16] [--json OUT]

O: transformers in fp32 on the dequantised weights; H: transformers in 16 bit on the same; M: the engine. Printed are the
losses and, over all LoRA tensors, the gradients' relative RMSE of H and of M against O.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma3nTextConfig, Gemma3TextConfig, PreTrainedTokenizerFast

from agentloop.engine import FastLanguageModel
from agentloop.engine.api.model import Gemma
from agentloop.engine.batch import join
from agentloop.engine.lora.buffer import TARGETS
from agentloop.engine.lora.projection import write_weight
from agentloop.engine.memory.plans import Keep

LAYERS = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]


CONFIGS = {
    "gemma3n": Gemma3nTextConfig(
        vocab_size=8192,
        vocab_size_per_layer_input=8192,
        num_hidden_layers=5,
        num_kv_shared_layers=2,
        layer_types=LAYERS,
        activation_sparsity_pattern=[0.95, 0.0, 0.0, 0.0, 0.0],
    ),
    # Gemma 3 4B
    "gemma3": Gemma3TextConfig(
        vocab_size=8192,
        hidden_size=2560,
        intermediate_size=10240,
        num_hidden_layers=5,
        layer_types=LAYERS,
        sliding_window=1024,
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    ),
}


def write_checkpoint(directory: Path, family: str) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name and family == "gemma3":
                weight.normal_(0, 0.05)  # 1 is added
            elif "norm" in name:
                # Scores are not divided by sqrt(head_dim): with norms at 1 the soft-max would be one-hot and every
                # 16-bit result noise. 0.3 gives the spread of scores that trained weights have.
                weight.normal_(0.3 if "q_norm" in name or "k_norm" in name else 1.0, 0.05)
            elif "correct_output_scale" in name:
                weight.normal_(0, 0.3)
            elif "coefs" in name:
                weight.normal_(0, 0.1)
            else:
                weight.normal_(0, 0.02)
    model.save_pretrained(directory)
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(directory)


def peer(directory: Path, engine: Gemma, dtype: torch.dtype) -> torch.nn.Module:
    """transformers with the engine's dequantised weights and adapter."""
    base = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, attn_implementation="eager").to("cuda")
    modules = dict(base.model.named_modules())
    with torch.no_grad():
        for layer in engine.weights.layers:
            for group in layer.groups:
                for name, weight in group.parts:
                    rounded = torch.empty(weight.shape, dtype=engine.dtype, device="cuda")
                    write_weight(weight, rounded)
                    modules[name].weight.copy_(rounded)
    config = LoraConfig(r=16, lora_alpha=16, target_modules=rf".*\.({'|'.join(TARGETS)})")
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    views = engine.lora.named()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            # All three compute with the adapter as the engine's GEMMs read it.
            parameter.data = views[plain(name)].to(engine.dtype).to(dtype)
    return model.eval()


def plain(name: str) -> str:
    return name[name.index("layers.") :].replace(".default", "")


def peer_gradients(model: torch.nn.Module, rows: list[tuple[list[int], list[bool]]]) -> tuple[float, dict[str, Tensor]]:
    count, total = sum(sum(mask[1:]) for _, mask in rows), 0.0
    for ids, mask in rows:
        tokens = torch.tensor([ids], device="cuda")
        labels = torch.where(torch.tensor([mask], device="cuda"), tokens, -100)
        loss = model(input_ids=tokens, labels=labels, use_cache=False).loss * sum(mask[1:])
        (loss / count).backward()
        total += float(loss.detach())
    return total / count, {plain(n): p.grad.float() for n, p in model.named_parameters() if p.grad is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", default="gemma3n", choices=tuple(CONFIGS))
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    directory = Path(tempfile.mkdtemp()) / "model"
    write_checkpoint(directory, arguments.family)
    engine, _ = FastLanguageModel.from_pretrained(directory, dtype=dtype, cache_directory=directory.parent)
    engine = FastLanguageModel.get_peft_model(engine, r=16, lora_alpha=16)
    engine.lora.parameters.normal_(0, 0.02)
    engine.lora.refresh()
    rng = random.Random(0)
    rows = []
    for length in (700, 301, 48):
        mask = [(i // 32) % 3 == 1 for i in range(length)]
        rows.append(([rng.randrange(8192) for _ in range(length)], mask))
    results = {}
    model = peer(directory, engine, torch.float32)
    oracle_loss, oracle = peer_gradients(model, rows)
    del model
    runs = {"transformers": peer_gradients(peer(directory, engine, dtype), rows)}
    for skip in (True, False):
        # The first step of a size runs kernel by kernel, the second as a CUDA graph.
        for kind in ("launched", "graph"):
            engine.lora.gradients.zero_()
            loss = engine.loss_and_gradients(join(rows), skip=skip).mean
            runs[f"engine skip={skip} {kind}"] = loss, {k: v.clone() for k, v in engine.lora.named_gradients().items()}
    host = replace(engine.step_plan(join(rows)), offload=True, chunk=256, head_rows=128)
    engine.plan = replace(host, keep=(Keep.DOWN,) * engine.shape.layers)
    engine.lora.gradients.zero_()
    loss = engine.loss_and_gradients(join(rows), skip=False).mean
    runs["engine offloaded"] = loss, {k: v.clone() for k, v in engine.lora.named_gradients().items()}
    for name, (loss, gradients) in runs.items():
        errors = {k: float((gradients[k] - g).norm() / g.norm()) for k, g in oracle.items()}
        worst = max(errors, key=errors.get)
        results[name] = {
            "loss": loss,
            "loss_error": abs(loss - oracle_loss),
            "median": sorted(errors.values())[len(errors) // 2],
            "worst": errors[worst],
            "worst_name": worst,
            "errors": errors,
        }
        print(
            f"{name}: loss {loss:.6f} (fp32 {oracle_loss:.6f}), gradient error median {results[name]['median']:.4f}, "
            f"worst {errors[worst]:.4f} {worst}",
            flush=True,
        )
    for name in list(results)[1:]:
        ratios = sorted((results[name]["errors"][k] / results["transformers"]["errors"][k], k) for k in oracle)
        print(f"{name}: error / transformers' error: median {ratios[len(ratios) // 2][0]:.3f}, largest {ratios[-1]}")
        results[name]["largest_ratio"] = ratios[-1]
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
