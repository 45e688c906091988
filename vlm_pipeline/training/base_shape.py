"""What a base looks like from outside: its configuration and the shapes of its weights. No weight is read or downloaded."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.hub import hub_errors

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class BaseShape:
    """`config`: the model's config.json. `weights`: shape of every weight by its name."""

    config: dict[str, Any]
    weights: Shapes

    @property
    def parameters(self) -> int:
        return sum(map(prod, self.weights.values()))

    @property
    def image_token(self) -> int | None:
        """The placeholder's token id; None for a text model."""
        return self.config.get("image_token_id", self.config.get("image_token_index"))

    @property
    def text(self) -> dict[str, Any]:
        """Configuration of the language model."""
        return self.config.get("text_config") or self.config


def shape_of_base(base_model: str, revision: str | None = None) -> BaseShape:
    """Shape of a local folder, of a hub model that is on this machine, or of one on the hub (a few kB are fetched).

    Raises PayloadError naming what cannot be read.
    """
    folder = Path(base_model).expanduser()
    if not folder.is_dir():
        snapshot = _cached(base_model, revision)
        if snapshot is None:
            return _on_hub(base_model, revision)
        folder = snapshot
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        return BaseShape(config, _headers(folder))
    except (OSError, ValueError, struct.error) as error:
        raise PayloadError(f"base_model {base_model}: {folder} cannot be read: {error}") from error


def _headers(folder: Path) -> Shapes:
    """Shapes from the headers of the safetensors files."""
    shapes: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def _cached(repository: str, revision: str | None) -> Path | None:
    """The snapshot of a hub model on this machine, weights included, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not here, or no name of a repository
        return None
    return folder if any(folder.glob("*.safetensors")) and (folder / "config.json").is_file() else None


def _on_hub(repository: str, revision: str | None) -> BaseShape:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        NotASafetensorsRepoError,
        RevisionNotFoundError,
        SafetensorsParsingError,
    )

    api = HfApi()
    try:
        config = json.loads(
            Path(api.hf_hub_download(repository, "config.json", revision=revision)).read_text("utf-8")
        )
        files = api.get_safetensors_metadata(repository, revision=revision).files_metadata.values()
    except RevisionNotFoundError as error:
        raise PayloadError(no_revision(repository, revision)) from error
    except NotASafetensorsRepoError as error:
        raise PayloadError(
            f"base_model {repository} has no *.safetensors weights (pickled weights are not read)"
        ) from error
    except (*hub_errors(), SafetensorsParsingError) as error:
        raise PayloadError(not_found(repository, error)) from error
    return BaseShape(
        config, {name: tuple(tensor.shape) for file in files for name, tensor in file.tensors.items()}
    )


def no_revision(repository: str, revision: str | None) -> str:
    return f"base_model {repository} has no revision {revision!r}; name a commit, tag or branch of it"


def not_found(repository: str, error: Exception) -> str:
    return (
        f"base_model {repository} is neither a folder on this machine nor a model that the hub gives: "
        f"{(str(error).splitlines() or [type(error).__name__])[0]}. Check the name, the network, and HF_TOKEN for a gated model"
    )
