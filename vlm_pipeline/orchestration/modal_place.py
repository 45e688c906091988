"""A payload in a Modal sandbox: the same command line in a container with a GPU, its log streamed into the step.

A sandbox runs a command, so nothing has to be deployed before. The store travels by its URL; keys by named secrets.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg

import vlm_pipeline
from vlm_pipeline.settings.compute import ModalPlace
from vlm_pipeline.store import STORE_PROTOCOLS

_PROJECT = "/opt/vlm_pipeline"  # in the container
_SHIPPED = ("vlm_pipeline", "pyproject.toml", "README.md", "constraints.txt")
_MODELS = "/models"


def run_on_modal(
    modal: Any,
    place: ModalPlace,
    context: dg.AssetExecutionContext,
    command: Sequence[str],
    environment: dict[str, str],
    name: str,
    folders: Sequence[Path],
) -> None:
    """Run the command and wait. Raises RuntimeError with its exit status; a cancelled run ends the sandbox.

    `modal`: the client's module; `folders`: what the payload must find under the path that it has here.
    """
    app = modal.App.lookup(place.app, create_if_missing=True)
    _clear_way(modal, place, name, context)
    given = sandbox_arguments(modal, place, environment, name, folders)
    sandbox = modal.Sandbox.create(*command, app=app, **given)
    try:
        context.log.info(f"Modal sandbox {sandbox.object_id} on {place.gpu or 'CPU'}: {shlex.join(command)}")
        errors = Thread(target=_stream, args=(sandbox.stderr, context), daemon=True)
        errors.start()
        _stream(sandbox.stdout, context)
        sandbox.wait()
        errors.join(timeout=10)
    except BaseException:
        sandbox.terminate()
        raise
    if sandbox.returncode:
        raise RuntimeError(f"the payload ended with status {sandbox.returncode} in {sandbox.object_id}")


def sandbox_arguments(
    modal: Any, place: ModalPlace, environment: dict[str, str], name: str, folders: Sequence[Path]
) -> dict[str, Any]:
    """Keyword arguments of `modal.Sandbox.create`; nothing is asked of the service yet."""
    models = {_MODELS: modal.Volume.from_name(place.volume, create_if_missing=True)} if place.volume else {}
    return {
        "name": name,
        "image": _image(modal, place, environment, folders),
        "gpu": place.gpu,
        "timeout": place.timeout_s,
        "secrets": [modal.Secret.from_name(secret) for secret in place.secrets],
        "volumes": models,
        "env": {**environment, **({"HF_HOME": _MODELS} if models else {})},
        **place.options,
    }


def _image(modal: Any, place: ModalPlace, environment: dict[str, str], folders: Sequence[Path]) -> Any:
    """The named image, or one that is built of this checkout with its pins; the task's folders lie on top of it."""
    if place.image:
        image = modal.Image.from_registry(place.image)
    else:
        project = Path(vlm_pipeline.__file__).parents[1]
        if not (project / "pyproject.toml").is_file():
            raise ValueError(
                "modal: this package was not installed from a checkout; name an `image` that holds it"
            )
        extra = STORE_PROTOCOLS[environment["VLM_PIPELINE_STORE"].partition("://")[0]]
        image = (
            modal.Image.debian_slim("3.11")
            .add_local_dir(project, _PROJECT, copy=True, ignore=_left_out(project))
            .run_commands(f"pip install -c {_PROJECT}/constraints.txt '{_PROJECT}[run,{extra}]'")
        )
    for folder in folders:
        image = image.add_local_dir(folder, str(folder))
    return image


def _left_out(project: Path) -> Callable[[Path], bool]:
    """Whether a path of the checkout stays here: all but the package and what installs it."""

    def left_out(path: Path) -> bool:
        inside = path.relative_to(project) if path.is_absolute() else path
        return inside.parts[0] not in _SHIPPED or "__pycache__" in inside.parts

    return left_out


def _clear_way(modal: Any, place: ModalPlace, name: str, context: dg.AssetExecutionContext) -> None:
    """End what an earlier, killed run left there: two payloads of one request must never write at once."""
    try:
        left = modal.Sandbox.from_name(place.app, name)
    except modal.exception.NotFoundError:
        return
    context.log.info(f"ending Modal sandbox {left.object_id}, which an earlier run left behind")
    left.terminate()
    left.wait(raise_on_termination=False)


def _stream(lines: Any, context: dg.AssetExecutionContext) -> None:
    for line in lines:
        context.log.info(line.rstrip("\n"))
