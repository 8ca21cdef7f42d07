"""FastLanguageModel: load a Gemma checkpoint, give it a LoRA adapter, train it. The calls are Unsloth's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch

from agentloop.engine.api import arguments
from agentloop.engine.api.model import Gemma
from agentloop.engine.io import adapter
from agentloop.engine.io.checkpoint import Checkpoint
from agentloop.engine.io.packed import packed_weights
from agentloop.engine.lora.buffer import LoraSettings
from agentloop.engine.memory import nvml
from agentloop.engine.models.families import load_weights
from agentloop.engine.warmup.compilation import compile_ahead
from agentloop.errors import AdapterError, ModelError, SettingError
from agentloop.model_directory import tensors
from agentloop.model_directory.configuration import is_multimodal, read_architecture
from agentloop.model_directory.files import VOCABULARIES, check_tokenizer
from agentloop.model_directory.fingerprint import base_fingerprint, default_cache
from agentloop.model_directory.lookup import located
from agentloop.model_directory.tokenizer import load_tokenizer


class FastLanguageModel:
    """Loads a Gemma checkpoint and gives it a LoRA adapter, with the calls and names of Unsloth's class.

    Arguments of Unsloth's that would change nothing here are accepted; any other raises SettingError in one line.
    """

    @staticmethod
    def from_pretrained(
        model_name: str | Path,
        max_seq_length: int = 2048,
        dtype: torch.dtype | str | None = None,
        load_in_4bit: bool = True,
        *,
        in_16bit: Sequence[str] = (),
        device: str | torch.device | None = None,
        memory_budget: float | Literal["auto"] = "auto",
        resident: bool | None = None,
        graphs: bool | None = None,
        offload_embedding: bool = True,
        offload_linears: bool = False,
        cache_directory: Path | None = None,
        load_in_16bit: bool = False,
        quantization_config: Any = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        use_exact_model_name: bool = False,
        with_tokenizer: bool = True,
        **others: Any,
    ) -> tuple[Gemma, Any]:
        """Load a checkpoint and return (model, tokenizer). Nothing is downloaded.

        - `model_name`: a checkpoint's directory, text-only or multimodal (its language model alone is read); its name on the
          hub, in any case, with or without google/ or unsloth/, which is looked up under `paths.models` and in the cache of
          the hub's client; a directory that `save_pretrained` wrote, which gives its base with that adapter; or a GGUF
          file, which is made into a directory in the cache, once.
        - `max_seq_length`: tokens of the longest sequence. A batch may have more.
        - `dtype`: dtype of the forward and backward pass, also by name. By default bf16 on CUDA (fp16 before compute
          capability 8), fp32 on the CPU.
        - `load_in_4bit`: pack the layers' linears into NF4, once for each base; false: keep them in 16 bit. A directory that
          bitsandbytes packed is taken as it is: what it holds in 4 bit and what in 16.
        - `in_16bit`: names of linears that stay in 16 bit all the same (`layers.0.self_attn.q_proj`).
        - `device`: `cuda`, `cuda:1` or `cpu`. By default the first CUDA device (under torchrun the process's own), else the
          CPU.
        - `memory_budget`: GiB of the device that this process may hold at the peak of a training step, as nvidia-smi shows
          them; "auto": what is free.
        - `resident`: keep the dequantised weights, which is faster and takes their memory. Always so on the CPU.
        - `graphs`: replay steps as CUDA graphs; by default on CUDA.
        - `offload_embedding`: leave the per-layer embeddings in host memory. The results are the same.
        - `offload_linears`: leave the linears that are not in NF4 in host memory as well, copied when they are needed: slow,
          for a base that the device has no room for.
        - `cache_directory`: where packed weights are kept; by default `paths.cache`.
        - `load_in_16bit`: as `load_in_4bit=False`.
        - `quantization_config`: transformers' BitsAndBytesConfig, or its dictionary, of NF4 with double quantisation.
        - `revision`, `cache_dir`: branch, tag or commit in the hub's cache, and that cache's folder.
        - `use_exact_model_name`: neither another case nor another owner's copy of the same model.
        - `with_tokenizer`: false: None in the tokenizer's place, whose files are not looked at, and transformers, which takes
          seconds to import, is not imported for it.

        Raises ModelError where a directory is incomplete or not supported, AdapterError where an adapter is, and SettingError
        for an argument; each in one line.
        """
        arguments.refuse(others)
        arguments.whole("max_seq_length", max_seq_length, 1)
        arguments.budget(memory_budget)
        quantization = arguments.bitsandbytes(quantization_config)
        load_in_4bit = load_in_4bit and not load_in_16bit
        if quantization:
            load_in_4bit, dtype = True, quantization.dtype if dtype is None else dtype
        dtype, device = arguments.dtype(dtype), arguments.device(device)
        directory = _find(
            model_name, cache_directory, in_4bit=load_in_4bit, revision=revision, hub_cache=cache_dir,
            exact=use_exact_model_name,
        )  # fmt: skip
        if (directory / "adapter_config.json").is_file():
            options = dict(
                max_seq_length=max_seq_length, dtype=dtype, load_in_4bit=load_in_4bit, in_16bit=in_16bit, device=device,
                memory_budget=memory_budget, resident=resident, graphs=graphs, offload_embedding=offload_embedding,
                offload_linears=offload_linears, cache_directory=cache_directory, quantization_config=quantization_config,
                cache_dir=cache_dir, with_tokenizer=with_tokenizer,
            )  # fmt: skip
            return _with_adapter(directory, options)
        if (directory / "training_args.bin").is_file() and not (directory / "config.json").is_file():
            raise ModelError(
                f"{directory}: what a trainer saves, to resume from it; an adapter is written by model.save_pretrained"
            )
        shape = read_architecture(directory)
        if with_tokenizer:
            check_tokenizer(directory, tokens=())
        tensors.check(directory)
        checkpoint = Checkpoint(directory)
        if checkpoint.packed and not load_in_4bit:
            raise SettingError(f"load_in_4bit: False, but {directory} holds 4-bit weights alone; load the 16-bit model")
        arguments.linears("in_16bit", in_16bit, shape.linears)
        if quantization and not checkpoint.packed:
            in_16bit = sorted({*in_16bit, *quantization.skipped(shape.linears)})
        # Before anything wakes CUDA up: it takes its time, and a process that uses it cannot be copied.
        capability = None if device and device.type == "cpu" else nvml.capability()
        compilation = compile_ahead(shape, dtype or default_dtype(capability), capability) if capability else None
        # Importing transformers' tokenizers takes seconds; reading weights mostly waits.
        thread = ThreadPoolExecutor(1)
        tokenizer = thread.submit(load_tokenizer, directory) if with_tokenizer else None
        thread.shutdown(wait=False)  # it ends with its task
        chosen = device or _default_device()
        if chosen.type == "cuda":
            if chosen.index is None:
                chosen = torch.device("cuda", torch.cuda.current_device())
            torch.cuda.set_device(chosen)
            capability = capability or torch.cuda.get_device_capability(chosen)
            dtype = dtype or default_dtype(capability)
            compilation = compilation or compile_ahead(shape, dtype, capability)
        dtype = dtype or torch.float32
        cache = cache_directory or default_cache()
        fingerprint = base_fingerprint(directory, cache)
        packed = None
        if load_in_4bit:
            packed = packed_weights(shape, checkpoint, fingerprint, cache, chosen, in_16bit=in_16bit)
        weights = load_weights(
            shape, checkpoint, packed, device=chosen, dtype=dtype, positions=max_seq_length,
            offload_embedding=offload_embedding, offload_linears=offload_linears,
        )  # fmt: skip
        model = Gemma(
            shape,
            weights,
            fingerprint=fingerprint,
            device=chosen,
            dtype=dtype,
            max_seq_length=max_seq_length,
            memory_budget=memory_budget,
            resident=chosen.type == "cpu" or bool(resident),
            graphs=chosen.type == "cuda" if graphs is None else graphs,
            directory=directory,
            cache_directory=cache,
        )
        model.compilation = compilation
        return model, None if tokenizer is None else tokenizer.result()

    @staticmethod
    def get_peft_model(
        model: Gemma,
        r: int = 16,
        target_modules: Sequence[str] | str | None = None,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        bias: str = "none",
        use_gradient_checkpointing: bool | str = "unsloth",
        random_state: int = 3407,
        use_rslora: bool = False,
        layers_to_transform: Sequence[int] | int | None = None,
        finetune_attention_modules: bool = True,
        finetune_mlp_modules: bool = True,
        finetune_last_n_layers: int | None = None,
        finetune_vision_layers: bool = False,
        finetune_audio_layers: bool = False,
        **others: Any,
    ) -> Gemma:
        """Give `model` a fresh adapter and return the model.

        An adapter of the same settings that was loaded or trained stays, with a warning; one of others raises SettingError. To
        begin anew, call `model.unload()` before.

        - `r`: rank of the adapter, 1 or more.
        - `target_modules`: projections that get an adapter, of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and
          down_proj; None or "all-linear": all seven. Layers that share another's keys and values have no k_proj and v_proj.
        - `lora_alpha`, `use_rslora`: the adapter's product counts alpha / r, or alpha / sqrt(r).
        - `random_state`: seed of A; B is zero, so that the model's outputs do not change.
        - `layers_to_transform`: index of a layer, or several; None: all layers.
        - `finetune_attention_modules`, `finetune_mlp_modules`: false leaves out the projections of that kind.
        - `finetune_last_n_layers`: the last so many layers, in place of `layers_to_transform`.
        - `finetune_vision_layers`, `finetune_audio_layers`: may be true where the base is a language model alone.
        - `use_gradient_checkpointing`: accepted and ignored. What is kept and what is recomputed follows the memory budget.

        Raises SettingError for what the engine does not compute (dropout, biases, other modules), and where `model` has another
        adapter whose weights would be lost.
        """
        arguments.refuse(others)
        targets = arguments.targets(
            target_modules, attention=finetune_attention_modules, feedforward=finetune_mlp_modules
        )
        arguments.whole("r", r, 1)
        arguments.positive("lora_alpha", lora_alpha)
        arguments.whole("random_state", random_state, 0)
        if lora_dropout:
            raise SettingError(
                f"lora_dropout: {lora_dropout} is not supported, only 0: weight and adapter are one matrix"
            )
        if bias != "none":
            raise SettingError(f"bias: {bias!r} is not supported, only 'none'")
        towers = {"finetune_vision_layers": finetune_vision_layers, "finetune_audio_layers": finetune_audio_layers}
        arguments.towers(towers, loaded=model.directory is None or not is_multimodal(model.directory))
        layers = (layers_to_transform,) if isinstance(layers_to_transform, int) else layers_to_transform
        if finetune_last_n_layers is not None:
            if layers is not None:
                raise SettingError(
                    "finetune_last_n_layers: layers_to_transform is given too; only one of them can hold"
                )
            count = min(arguments.whole("finetune_last_n_layers", finetune_last_n_layers, 1), model.shape.layers)
            layers = range(model.shape.layers - count, model.shape.layers)
        known = range(model.shape.layers)
        if absent := [index for index in layers or () if isinstance(index, bool) or index not in known]:
            raise SettingError(
                f"layers_to_transform: there is no layer {absent[0]}, only 0 to {model.shape.layers - 1}"
            )
        chosen = None if layers is None else tuple(layers)
        model.attach_lora(LoraSettings(r, lora_alpha, targets, use_rslora, chosen, random_state))
        return model

    @staticmethod
    def for_training(model: Gemma) -> Gemma:
        """Switch `model` to training mode and return it. No weights are merged or cast."""
        return model.train()

    @staticmethod
    def for_inference(model: Gemma) -> Gemma:
        """Switch `model` to evaluation mode and return it. No weights are merged or cast; `generate` works in both modes."""
        return model.eval()


def _with_adapter(directory: Path, options: dict[str, Any]) -> tuple[Gemma, Any]:
    """The base that the adapter in `directory` names, with the adapter. Raises ModelError, SettingError, AdapterError."""
    config = adapter.read_config(directory)
    if not isinstance(config.get("base_model_name_or_path"), str):
        raise AdapterError(f"{directory}/adapter_config.json: base_model_name_or_path names no base model")
    if isinstance(config.get("target_modules"), str):  # a pattern, which names what is in the file
        config["target_modules"] = adapter.target_modules(directory)
    options["in_16bit"] = options["in_16bit"] or adapter.in_16bit(directory)
    base = config["base_model_name_or_path"]
    if not Path(base).exists() and (directory / base).exists():
        base = directory / base
    model, tokenizer = FastLanguageModel.from_pretrained(base, **options)
    names = ("r", "target_modules", "lora_alpha", "use_rslora", "layers_to_transform")
    try:
        model = FastLanguageModel.get_peft_model(model, **{name: config[name] for name in names if name in config})
    except SettingError as error:
        raise AdapterError(f"{directory}/adapter_config.json: {error}") from None
    model.load_adapter(directory)
    if options["with_tokenizer"] and any((directory / name).is_file() for name in VOCABULARIES):
        tokenizer = load_tokenizer(directory)
    return model, tokenizer


def _find(
    model_name: str | Path,
    cache: Path | None,
    *,
    in_4bit: bool,
    revision: str | None,
    hub_cache: str | Path | None,
    exact: bool,
) -> Path:
    """A model's or an adapter's directory, in the cache where `model_name` is a GGUF file. Raises ModelError, SettingError."""
    if not model_name or not isinstance(model_name, str | Path):
        raise SettingError(f"model_name: {model_name!r} is neither a directory nor a name")
    path = Path(model_name)
    if path.exists() and revision is not None:
        raise SettingError(f"revision: {path} is a directory, which has no {revision!r}")
    if not path.exists():
        # Imported when asked for: the engine itself needs no settings.
        from agentloop.settings import for_the_engine

        models = for_the_engine().paths.models
        path = models / model_name
        if revision is not None or not path.exists():
            path = located(
                str(model_name), models, hub_cache=Path(hub_cache) if hub_cache else None, revision=revision,
                in_4bit=in_4bit, exact=exact,
            )  # fmt: skip
    if path.is_dir():
        return path
    from agentloop.gguf.importing import imported

    cache = cache or default_cache()
    return imported(path, cache / "gguf", cache=cache)


def _default_device() -> torch.device:
    """The CUDA device of this process (torchrun numbers them by LOCAL_RANK), or the CPU."""
    return (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    )


def default_dtype(capability: tuple[int, int]) -> torch.dtype:
    """Return the dtype that is computed in on a CUDA device unless told otherwise."""
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def is_bfloat16_supported() -> bool:
    """Return True where the device computes in bf16 unless told otherwise. It decides nothing here: `bf16` and `fp16` of a
    trainer's arguments do not reach the engine."""
    return torch.cuda.is_available() and default_dtype(torch.cuda.get_device_capability()) == torch.bfloat16
