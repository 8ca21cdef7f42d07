"""Entry point of the vLLM plugin, which vLLM calls in each of its processes.

Importing this module costs nothing: everything else is imported when vLLM calls `register`.
"""

from __future__ import annotations

import re

_OLDEST = (0, 26)


def register() -> None:
    """Replace vLLM's Gemma classes by this package's; on the CPU, also its LoRA arithmetic. May be called more than once.

    Raises RuntimeError in a vLLM that is too old.
    """
    from vllm import ModelRegistry, __version__

    if fault := unsupported(__version__):
        raise RuntimeError(fault)
    from vllm.platforms import current_platform

    from agentloop_vllm import gemma
    from agentloop_vllm.gemma3n import Gemma3nForCausalLM

    # To ask a class named by a string what it can do, vLLM starts a process that imports everything once more, lest CUDA be
    # initialised in this one. Importing these classes does not initialise it.
    for served in (gemma.GemmaForCausalLM, gemma.Gemma2ForCausalLM, gemma.Gemma3ForCausalLM, Gemma3nForCausalLM):
        ModelRegistry.register_model(served.__name__, served)
    ModelRegistry.register_model(
        "Gemma3nForConditionalGeneration", "agentloop_vllm.gemma3n_mm:Gemma3nForConditionalGeneration"
    )
    if current_platform.is_cpu():
        from vllm import _custom_ops

        # oneDNN prepares a primitive for every number of rows and remembers 32 of them; agents' requests give another
        # number at almost every step, and preparing then costs more than multiplying.
        _custom_ops._supports_onednn = False
        # vLLM resolves this name when the first LoRA layer is made.
        type(current_platform).get_punica_wrapper = classmethod(
            lambda cls: "agentloop_vllm.lora_cpu.GroupedPunicaWrapper"
        )


def unsupported(version: str) -> str | None:
    """Why the plugin does not work with this version of vLLM, in one line; None where it does.

    It cannot be a requirement of the distribution: vLLM's CPU build is another one, and pip would install vLLM over it.
    A development build is let through, for without git's tags it calls itself 0.1 or "dev" whatever it is.
    """
    release = re.match(r"(\d+)\.(\d+)", version)
    if release is None or "dev" in version or (int(release[1]), int(release[2])) >= _OLDEST:
        return None
    oldest = ".".join(map(str, _OLDEST))
    return f"agentloop-vllm needs vLLM {oldest} or newer and this is {version}; upgrade it, or set VLLM_PLUGINS= to do without"
