"""Entry point of the vLLM plugin, which vLLM calls in each of its processes.

Importing this module costs nothing; vLLM's own processes find the plugin by its entry point and register the same.
"""

from __future__ import annotations


def register() -> None:
    """Replace vLLM's Gemma classes by this project's; on the CPU, also its LoRA arithmetic. May be called more than once."""
    from vllm import ModelRegistry
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
