"""Text-only Gemma 1, 2 and 3: vLLM's own classes, whose adapters are looked at before they are served (adapter_guard.py).

vLLM builds the language model inside its multimodal class (`Gemma3ForConditionalGeneration`) from the registry, so that one's
adapters are looked at as well.
"""

from __future__ import annotations

from vllm.config import VllmConfig
from vllm.model_executor.models import gemma as vllm_gemma
from vllm.model_executor.models import gemma2 as vllm_gemma2
from vllm.model_executor.models import gemma3 as vllm_gemma3

from agentloop_vllm import adapter_guard


class _Guarded:
    """Installs the guard before one of vLLM's classes is built, whose name comes second among the bases."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        adapter_guard.install(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)


class GemmaForCausalLM(_Guarded, vllm_gemma.GemmaForCausalLM):
    """vLLM's Gemma 1, guarded."""


class Gemma2ForCausalLM(_Guarded, vllm_gemma2.Gemma2ForCausalLM):
    """vLLM's Gemma 2, guarded."""


class Gemma3ForCausalLM(_Guarded, vllm_gemma3.Gemma3ForCausalLM):
    """vLLM's text-only Gemma 3, guarded."""
