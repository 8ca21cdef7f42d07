"""Text-only Gemma 1, 2 and 3: vLLM's own classes, whose adapters are looked at before they are served (adapter_guard.py).

vLLM builds the language model inside its multimodal class (`Gemma3ForConditionalGeneration`) from the registry, so that one's
adapters are looked at as well.
"""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.model_executor.models import gemma as vllm_gemma
from vllm.model_executor.models import gemma2 as vllm_gemma2
from vllm.model_executor.models import gemma3 as vllm_gemma3

from agentloop.serving import adapter_guard


def _watch(vllm_config: VllmConfig) -> None:
    if vllm_config.lora_config is not None:
        adapter_guard.install()


class GemmaForCausalLM(vllm_gemma.GemmaForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        _watch(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)


class Gemma2ForCausalLM(vllm_gemma2.Gemma2ForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        _watch(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)


class Gemma3ForCausalLM(vllm_gemma3.Gemma3ForCausalLM):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        _watch(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
