"""The base model: found, identified by the bytes of its weights, loaded by the class its own configuration names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.hub import hub_errors
from vlm_pipeline.settings.training import QuantizationSettings
from vlm_pipeline.store import content_hash, file_hash, read_json, write_json
from vlm_pipeline.training.base_shape import no_revision, not_found

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_IDENTITY_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json")


def resolve_base(base_model: str, revision: str | None = None) -> Path:
    """Folder of a base model: a local folder as it is, a hub id from the cache or downloaded at `revision`.

    Raises PayloadError for a missing model, a wrong revision, or weights that are not safetensors.
    """
    folder = Path(base_model).expanduser()
    if not folder.is_dir():
        folder = _download(base_model, revision)
    elif revision:
        raise PayloadError(
            f"base_model {base_model} is a folder on this machine and has no revision {revision!r}; remove it"
        )
    if not (folder / "config.json").is_file():
        raise PayloadError(f"base_model {base_model}: {folder} has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise PayloadError(
            f"base_model {base_model}: {folder} has no *.safetensors weights (pickled weights are not read)"
        )
    return folder


def _download(repository: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    skipped = ["*.bin", "*.pt", "*.pth", "*.gguf", "original/*"]
    try:
        return Path(snapshot_download(repository, revision=revision, ignore_patterns=skipped))
    except RevisionNotFoundError as error:
        raise PayloadError(no_revision(repository, revision)) from error
    except hub_errors() as error:
        raise PayloadError(not_found(repository, error)) from error


def base_revision(folder: Path, revision: str | None) -> str | None:
    """The commit that a hub snapshot lies under, else the revision as written."""
    return folder.name if folder.parent.name == "snapshots" else revision


def base_fingerprint(folder: Path, cache: Path | None = None) -> str:
    """Hash of the weights and the configuration; a file is read again only when its size or time changed.

    `cache`: a JSON file that remembers hashes by path, size and modification time.
    """
    known: dict[str, str] = read_json(cache, default={}) if cache else {}
    digests, fresh = {}, False
    for pattern in _IDENTITY_FILES:
        for file in sorted(folder.glob(pattern)):
            status = file.stat()
            key = f"{file.resolve()}:{status.st_size}:{status.st_mtime_ns}"
            if key not in known:
                known[key], fresh = file_hash(file), True
            digests[file.name] = known[key]
    if cache and fresh:
        write_json(cache, known)
    return content_hash(digests)


def base_identity(base_model: str, revision: str | None, cache: Path) -> str:
    """Names the base's weights before they are read: a hash of a local folder's files, or hub id and revision.

    `cache`: the store's cache folder.
    """
    folder = Path(base_model)
    if folder.is_dir():
        return base_fingerprint(folder, cache / "base_fingerprints.json")
    return f"{base_model}@{revision or 'main'}"


def load_config(folder: Path) -> Any:
    """The model's configuration by the Auto classes. Raises PayloadError; code of the model's own is never run."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        if "trust_remote_code" in str(error):
            raise PayloadError(
                f"{folder} needs Python code of its own (auto_map in config.json), which is never run here; "
                "use a base that Transformers knows itself"
            ) from error
        raise PayloadError(
            f"the configuration of {folder} cannot be read: {str(error).splitlines()[0]}"
        ) from error


def has_images(config: Any) -> bool:
    """Whether the configuration belongs to an image-text model."""
    from transformers import AutoModelForImageTextToText

    return type(config) in AutoModelForImageTextToText._model_mapping


def pick_device() -> torch.device:
    """This process's GPU where there is one (one per process under `accelerate launch`), else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """float32 on a CPU; bfloat16 on a GPU that has it."""
    import torch

    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def precision_name(precision: str) -> str:
    """ "bf16" or "float32" without importing torch: "auto" is bf16 where this process may use an NVIDIA GPU."""
    if precision != "auto":
        return precision
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") != ""
    return "bf16" if visible and any(Path("/dev").glob("nvidia[0-9]*")) else "float32"


def load_base(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    quantization: QuantizationSettings | None = None,
) -> PreTrainedModel:
    """Load a base with frozen weights in evaluation mode.

    The class is AutoModelForImageTextToText where the configuration is one of an image-text model, else
    AutoModelForCausalLM. `quantization` nf4: QLoRA's 4-bit NormalFloat (arXiv:2305.14314), weights quantised on load.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    from vlm_pipeline.training.shortcuts import lean_activations, linear_patches

    config = load_config(folder)
    auto_class = AutoModelForImageTextToText if has_images(config) else AutoModelForCausalLM
    extra: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False}
    quantized = quantization is not None and quantization.mode != "none"
    if quantized:
        extra["quantization_config"] = _bitsandbytes(quantization, outside_language_model(auto_class, config))
        extra["device_map"] = {"": device}
    try:
        model = auto_class.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", **extra)
    except (ValueError, OSError, SafetensorError) as error:
        if "scaled_dot_product_attention" not in str(error):
            raise PayloadError(
                f"{folder} cannot be loaded as {auto_class.__name__}: {str(error).splitlines()[0]}"
            ) from error
        model = auto_class.from_pretrained(folder, dtype=dtype, **extra)
    model.requires_grad_(False)
    linear_patches(model)
    lean_activations(model)
    for module in model.modules():
        # bitsandbytes repacks 4-bit weights for inference at the first evaluation on AVX-512 CPUs, for good, and the
        # repacked product has no gradient (seen with 0.50).
        if getattr(module, "support_avx512bf16_for_cpu", False):
            module.support_avx512bf16_for_cpu = False
    return (model if quantized else model.to(device)).eval()


def outside_language_model(auto_class: Any, config: Any) -> list[str]:
    """Names of the modules beside the language model (vision tower, output projection): they stay unquantised.

    The vision tower is small, its features feed every answer, and its layers often have widths that 4-bit blocks do
    not divide.
    """
    from accelerate import init_empty_weights

    with init_empty_weights():
        model = auto_class.from_config(config)
    decoder = model.get_decoder()
    path = next(name for name, module in model.named_modules() if module is decoder).split(".")
    beside = []
    for depth in range(len(path)):
        parent = ".".join(path[:depth])
        module = model.get_submodule(parent) if parent else model
        beside += [
            ".".join([*path[:depth], name]) for name, _ in module.named_children() if name != path[depth]
        ]
    return beside


def _bitsandbytes(quantization: QuantizationSettings, unquantized: list[str]) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if quantization.mode == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=unquantized)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=quantization.double,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype),
        llm_int8_skip_modules=unquantized,
    )
