"""A payload at the place that the task names: its log streams into the step, and a cancelled run ends it there.

Existing clients do the work: Dagster's subprocess client, dagster-ray, dagster-k8s, Modal's own, Slurm's own commands.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import dagster as dg

from vlm_pipeline.compute import slurm
from vlm_pipeline.compute.launch import PlaceError
from vlm_pipeline.orchestration.modal_place import run_on_modal
from vlm_pipeline.settings.compute import (
    UNTESTED_PLACES,
    KubernetesPlace,
    ModalPlace,
    PlaceSettings,
    RayPlace,
    SlurmPlace,
)
from vlm_pipeline.sharing.share import TRAVELLING_VARIABLE

_STOP_SECONDS = 60


def run_at(
    place: PlaceSettings,
    context: dg.AssetExecutionContext,
    command: list[str],
    environment: dict[str, str],
    name: str,
    folder: Path,
    waited: Callable[[float], None],
    ships: Sequence[Path] = (),
) -> None:
    """Run the command and wait; raises what the place's client raises where it ended badly.

    `name`: of this request, the same whenever it is asked; `folder`: the store, and `ships` what else the payload must
    see, where they lie here; `waited` is told by a place with a queue how many seconds the payload has waited there.
    """
    if place.kind in UNTESTED_PLACES:
        context.log.warning(f"compute: {place.kind} is {UNTESTED_PLACES[place.kind]}")
    if _blind(place) and TRAVELLING_VARIABLE not in environment:
        raise PlaceError(
            f"compute: {place.kind} cannot see the store {folder} of this machine: set VLM_PIPELINE_STORE to a URL"
            + (" or name a volume_claim" if isinstance(place, KubernetesPlace) else "")
        )
    if isinstance(place, ModalPlace):
        try:
            run_on_modal(_needed("modal", "modal"), place, context, command, environment, name, ships)
        except ValueError as error:
            raise PlaceError(str(error)) from error
    elif isinstance(place, RayPlace):
        _on_ray(place, context, command, environment, name)
    elif isinstance(place, SlurmPlace):
        _on_slurm(place, context, command, environment, name, folder / "slurm" / name, waited)
    elif isinstance(place, KubernetesPlace):
        client = _needed("dagster_k8s", "kubernetes").PipesK8sClient()
        client.run(
            context=context, command=command, env=environment, image=place.image, namespace=place.namespace,
            base_pod_spec=pod_spec(place, folder), pod_wait_timeout=place.timeout_s,
        )  # fmt: skip
    else:
        dg.PipesSubprocessClient(env=environment).run(context=context, command=command)


def _blind(place: PlaceSettings) -> bool:
    """Whether a place has no file system in common with this machine."""
    return isinstance(place, ModalPlace) or (isinstance(place, KubernetesPlace) and not place.volume_claim)


def _needed(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise PlaceError(
            f"compute: {extra} needs {module} ({error}); pip install 'vlm_pipeline[{extra}]'"
        ) from error


def _on_ray(
    place: RayPlace,
    context: dg.AssetExecutionContext,
    command: list[str],
    environment: dict[str, str],
    name: str,
) -> None:
    address = place.address or os.environ.get("RAY_ADDRESS")
    client = _needed("dagster_ray", "ray").PipesRayJobClient(
        address=address, create_cluster_if_needed=not address
    )
    try:
        jobs = client.client
    except (ConnectionError, RuntimeError) as error:
        raise PlaceError(f"no Ray dashboard answers at {address}: {error}") from error
    _clear_way(jobs, name, context)
    written = place.runtime_env.get("env_vars", {})
    client.run(
        context=context,
        submit_job_params={
            "entrypoint": shlex.join(command),
            "submission_id": name,
            "entrypoint_num_cpus": place.cpus,
            "entrypoint_num_gpus": place.gpus,
            "runtime_env": {**place.runtime_env, "env_vars": {**environment, **written}},
        },
    )


def _clear_way(jobs: Any, name: str, context: dg.AssetExecutionContext) -> None:
    """End what an earlier, killed run left on the cluster: two payloads of one request must never write at once."""
    if name not in {job.submission_id for job in jobs.list_jobs()}:
        return
    deadline = time.monotonic() + _STOP_SECONDS
    if not jobs.get_job_status(name).is_terminal():
        context.log.info(f"stopping Ray job {name}, which an earlier run left behind")
        jobs.stop_job(name)
    while not jobs.get_job_status(name).is_terminal():
        if time.monotonic() > deadline:
            raise PlaceError(
                f"Ray job {name} of an earlier run does not end; stop it with: ray job stop {name}"
            )
        time.sleep(0.5)
    jobs.delete_job(name)


def _on_slurm(
    place: SlurmPlace,
    context: dg.AssetExecutionContext,
    command: list[str],
    environment: dict[str, str],
    name: str,
    folder: Path,
    waited: Callable[[float], None],
) -> None:
    slurm.clear_way(name, context.log.info)
    shutil.rmtree(folder, ignore_errors=True)  # of earlier attempts
    attempt = folder / uuid.uuid4().hex[:8]
    attempt.mkdir(parents=True)
    messages = dg.PipesFileMessageReader(str(attempt / "messages"))
    with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), messages) as session:
        known = {**environment, **session.get_bootstrap_env_vars()}
        slurm.run_job(place, name, attempt, command, known, context.log.info, waited)


def pod_spec(place: KubernetesPlace, folder: Path) -> dict[str, Any]:
    """The pod around the payload's container: the store's volume, GPUs, secrets, and what the settings add."""
    container: dict[str, Any] = {
        "name": "payload",
        "envFrom": [{"secretRef": {"name": secret}} for secret in place.secrets],
    }
    if place.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": str(place.gpus)}}
    whole = {"restartPolicy": "Never", **place.pod_spec, "containers": [container]}
    if place.volume_claim:
        container["volumeMounts"] = [{"name": "store", "mountPath": str(folder)}]
        whole["volumes"] = [{"name": "store", "persistentVolumeClaim": {"claimName": place.volume_claim}}]
    return whole
