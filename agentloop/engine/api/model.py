"""The model that callers hold in their hands: the engine's model as trainers want it, with what reads and writes adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentloop.engine.api import arguments
from agentloop.engine.api.facade import TrainerFacade
from agentloop.engine.export import exporting, merged
from agentloop.engine.io import adapter
from agentloop.engine.numerics.modes import usual_modes
from agentloop.errors import SettingError
from agentloop.exports.verification import Figures
from agentloop.model_directory.tokenizer import check_size


class Gemma(TrainerFacade):
    """A Gemma language model with frozen weights and, after `FastLanguageModel.get_peft_model`, a trainable LoRA adapter.

    It is an nn.Module whose only parameter is the adapter, so transformers' and TRL's trainers take it as it is. Made by
    `FastLanguageModel.from_pretrained`.
    """

    def save_pretrained(self, directory: str | Path, **others: Any) -> None:
        """Write the adapter into `directory`, in PEFT's format, which PEFT and vLLM read.

        Raises SettingError for an argument that is not supported, DiskError where the directory cannot be written to.
        """
        arguments.refuse(others)
        adapter.save(
            self.lora, Path(directory), base=self.fingerprint, model=self.directory, in_16bit=self.quantization.in_16bit
        )

    @usual_modes()
    def save_pretrained_merged(
        self,
        directory: str | Path,
        tokenizer: Any = None,
        save_method: str = "merged_16bit",
        *,
        base: merged.Base = "bf16",
        verify: bool = True,
        **others: Any,
    ) -> list[Figures]:
        """Write base and adapter as one checkpoint into `directory`, which must not exist, and return how far it is from here.

        `base` says which weights the adapter is merged onto: "bf16", the original ones, or "dequantised", those of the NF4
        that it was trained on. The base's tokenizer comes along; `tokenizer` replaces it. `save_method="lora"` writes the
        adapter alone, as `save_pretrained` does. `verify`: transformers is asked what it computes with the checkpoint, which
        takes the memory of the model in fp32; what is not what was trained is removed.

        Raises SettingError where `directory` exists, an argument is not supported or `tokenizer` has a token without a row in
        the model, ModelError where the checkpoint is not what was trained, DiskError where it cannot be written.
        """
        arguments.refuse(others)
        if save_method not in ("merged_16bit", "lora"):
            raise SettingError(f"save_method: {save_method!r} is not supported, only 'merged_16bit' and 'lora'")
        if base not in merged.ONTO:
            raise SettingError(f"base: {base!r} is neither 'bf16' nor 'dequantised'")
        if tokenizer is not None:
            check_size(tokenizer, self.directory, self.shape.vocab)
        if save_method == "merged_16bit":
            return exporting.save_merged(self, Path(directory), tokenizer=tokenizer, base=base, verify=verify)
        self.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save_pretrained(directory)
        return []

    @usual_modes()
    def save_pretrained_gguf(
        self,
        directory: str | Path,
        tokenizer: Any = None,
        quantization_method: str | list[str] | tuple[str, ...] = "q8_0",
        *,
        save_method: str = "merged",
        base: merged.Base | None = None,
        verify: bool = True,
        **others: Any,
    ) -> list[Figures]:
        """Write the model for llama.cpp and Ollama into `directory`, which must not exist, and return how far it is from here.

        - `quantization_method`: f32, f16, bf16, q8_0 or q4_k_m, or several of them; Unsloth's not_quantized, fast_quantized and
          quantized are f16, q8_0 and q4_k_m. The last one takes llama.cpp's library (`agentloop[llamacpp]`).
        - `save_method`: "merged", or "lora": the adapter as a file of its own beside its base.
        - `base`: the weights that the adapter goes onto, "bf16", the original ones, or "dequantised"; None: those that it was
          trained on.
        - `tokenizer`: replaces the base's.
        - `verify`: llama.cpp, where it is installed, else transformers is asked what it computes with each file; a file that is
          not what was trained is removed.

        A Modelfile for Ollama lies beside the files. Raises SettingError where `directory` exists or for an argument,
        ModelError where llama.cpp does not compute such a model or computes something else, DiskError.
        """
        arguments.refuse(others)
        if save_method not in ("merged", "lora"):
            raise SettingError(f"save_method: {save_method!r} is not supported, only 'merged' and 'lora'")
        if tokenizer is not None:
            check_size(tokenizer, self.directory, self.shape.vocab)
        kinds = quantization_method if isinstance(quantization_method, list | tuple) else [quantization_method]
        return exporting.save_gguf(
            self, Path(directory), tokenizer=tokenizer, kinds=kinds, base=base, as_adapter=save_method == "lora",
            verify=verify,
        )  # fmt: skip

    @usual_modes()
    def load_adapter(self, directory: str | Path) -> None:
        """Replace the adapter's weights with those in `directory`, in PEFT's format.

        Raises AdapterError where they belong to another base or to other modules.
        """
        adapter.load(self.lora, Path(directory), base=self.fingerprint)
