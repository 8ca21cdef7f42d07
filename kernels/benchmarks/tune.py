"""Time every attention tile that fits this card, and print the rows for agentloop_kernels/tiles.py.

    PYTHONPATH=kernels python kernels/benchmarks/tune.py [--tokens 8192] [--window 512]

Nothing else reads the result: the table changes by hand, with the reason beside it.
"""

from __future__ import annotations

import argparse
from itertools import product

import torch
from triton.runtime.errors import OutOfResources
from triton.testing import do_bench

from agentloop_kernels import attention, attention_triton
from agentloop_kernels.tiles import AttentionTile, attention_tile

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 256
CANDIDATES = [AttentionTile(*c) for c in product((32, 64, 128), (32, 64), (4, 8), (1, 2))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--window", type=int, default=512)
    arguments = parser.parse_args()
    segments = torch.arange(0, arguments.tokens + 1, 2048, device="cuda", dtype=torch.int32)
    plan = attention.plan_attention(segments, arguments.tokens, 2048, window=arguments.window)
    q, dout = (torch.randn(arguments.tokens, HEADS, HEAD_DIM, device="cuda").bfloat16() / 4 for _ in range(2))
    k, v = (torch.randn(arguments.tokens, KV_HEADS, HEAD_DIM, device="cuda").bfloat16() for _ in range(2))
    off = {"scale": 1.0, "softcap": None}
    none = {"dquery": None, "dkey": None, "dvalue": None, "accumulate": False}
    out, lse = attention_triton.triton_attention(q, k, v, plan, out=None, **off)

    def backward() -> object:
        return attention_triton.triton_attention_backward(dout, q, k, v, out, lse, plan, **none, **off)

    def forward() -> object:
        return attention_triton.triton_attention(q, k, v, plan, out=None, **off)

    for kernel, run in (("forward", forward), ("dquery", backward), ("dkey_dvalue", backward)):
        times = {}
        for tile in CANDIDATES:

            def chosen(name: str, *given, tile=tile, kernel=kernel) -> AttentionTile:
                return tile if name == kernel else attention_tile(name, *given)

            attention_triton.attention_tile = chosen
            try:
                times[tile] = do_bench(run, warmup=5, rep=15, return_mode="median")
            except OutOfResources:
                continue
        for tile in sorted(times, key=times.get)[:5]:
            print(f"{torch.cuda.get_device_capability()} {kernel:12s} {times[tile]:.4f} ms  {tile}", flush=True)
    attention_triton.attention_tile = attention_tile


if __name__ == "__main__":
    main()
