"""Where payloads run: one setting for training, one for prediction."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from vlm_pipeline.settings.base import InTaskFolder, Settings


class LocalPlace(Settings):
    """A process on this machine."""

    kind: Literal["local"] = "local"


class AcceleratePlace(Settings):
    """Several processes on this machine under `accelerate launch`, one per GPU; without a GPU they share the CPU."""

    kind: Literal["accelerate"]
    processes: int = Field(2, gt=1)
    config: InTaskFolder | None = None  # a file of `accelerate config`: FSDP, DeepSpeed, several machines


class RemotePlace(Settings):
    """What all places away from this machine share: they see the store under the path that it has here, or fetch it
    from its URL."""

    python: str = "python"  # of the image, with this package installed
    retries: int = Field(2, ge=0)  # of a worker that was lost; training goes on from its last checkpoint
    retry_delay_s: float = Field(10, ge=0)


class RayPlace(RemotePlace):
    """A job of a Ray cluster, by dagster-ray."""

    kind: Literal["ray"]
    address: str | None = (
        None  # of the dashboard, http://...; None: RAY_ADDRESS, or a cluster on this machine
    )
    cpus: float = Field(1, ge=0)
    gpus: float = Field(0, ge=0)
    runtime_env: dict[str, Any] = {}


class KubernetesPlace(RemotePlace):
    """A pod, by dagster-k8s. Its specification is checked against the client; it never ran on a cluster."""

    kind: Literal["kubernetes"]
    image: str
    namespace: str | None = None
    gpus: int = Field(0, ge=0)
    volume_claim: str | None = (
        None  # holds the store, mounted under the path that the store has here; not for a store on a URL
    )
    pod_spec: dict[
        str, Any
    ] = {}  # what else the pod needs, as Kubernetes writes it: nodeSelector, tolerations
    secrets: list[str] = []  # whose entries become the container's environment
    timeout_s: float = Field(86_400, gt=0)


ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][\w./+-]*$")]
Count = Annotated[int, Field(ge=0)]
TypedCount = Annotated[str, Field(pattern=r"^[\w.-]+:[1-9]\d*$")]
SbatchOption = Literal[
    "begin", "comment", "constraint", "exclude", "exclusive", "licenses", "mem-per-cpu", "mem-per-gpu", "nice",
    "nodelist", "prefer", "qos", "reservation", "wckey",
]  # fmt: skip


class SlurmPlace(RemotePlace):
    """A batch job of a Slurm cluster, by its own command line: `sbatch`, `squeue` and `scancel` on this machine."""

    kind: Literal["slurm"]
    partition: str | None = None  # None, here and below: what the cluster gives who does not ask
    account: str | None = None
    cpus: int = Field(1, gt=0)
    gpus: Count | TypedCount = 0  # of the node; of one type: 'a100:2'
    memory: str | None = None  # of the node, as Slurm writes it: 64G
    timeout_s: float | None = Field(None, gt=0)  # of the job while it runs, not while it waits
    options: dict[
        SbatchOption, str | int | Literal[True]
    ] = {}  # further ones of sbatch, without their dashes
    modules: list[ModuleName] = []  # loaded on the node before `python` starts
    ask_every_s: float = Field(15, gt=0)  # how often the queue is asked about the job


class ModalPlace(RemotePlace):
    """A sandbox of Modal. Its specification is checked against the client; it never ran there. Needs a store on a URL."""

    kind: Literal["modal"]
    gpu: str | None = Field(
        "A100-80GB", pattern=r"^(T4|L4|L40S|A10|A100(-40GB|-80GB)?|H100|H200|B200)(:[1-8])?$"
    )
    image: str | None = None  # with this package installed; None: built of this checkout and its pins
    app: str = "vlm_pipeline"  # under which the sandboxes are listed
    secrets: list[str] = []  # by name: the store's keys, HF_TOKEN; their entries become environment variables
    volume: str | None = None  # keeps downloaded base models from one run to the next
    timeout_s: int = Field(86_400, gt=0, le=86_400)  # Modal ends a sandbox after a day
    options: dict[str, Any] = {}  # what else modal.Sandbox.create takes: cpu, memory, region


PlaceSettings = Annotated[
    LocalPlace | AcceleratePlace | RayPlace | KubernetesPlace | ModalPlace | SlurmPlace,
    Field(discriminator="kind"),
]
UNTESTED_PLACES = {"kubernetes": "never run on a real cluster", "modal": "never run on Modal"}


class ComputeSettings(Settings):
    training: PlaceSettings = LocalPlace()
    prediction: PlaceSettings = LocalPlace()
