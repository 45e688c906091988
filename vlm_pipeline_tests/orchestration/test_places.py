"""Where payloads run: the command lines, a pod's specification, and what is said when a place cannot be used."""

import socket
import sys
from pathlib import Path

import dagster as dg
import pytest
from pydantic import ValidationError

from vlm_pipeline.compute.launch import payload_command, payload_environment
from vlm_pipeline.orchestration.places import pod_spec
from vlm_pipeline.orchestration.resources import PayloadClient
from vlm_pipeline.settings.compute import AcceleratePlace, ComputeSettings, KubernetesPlace, RayPlace
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task

REQUEST = Path("/store/requests/training-1.json")
POD = KubernetesPlace(
    kind="kubernetes",
    image="team/vlm:1",
    volume_claim="store",
    gpus=1,
    secrets=["hub"],
    pod_spec={"nodeSelector": {"gpu": "h100"}, "tolerations": [{"key": "gpu", "operator": "Exists"}]},
)


def task_at(place: object) -> Task:
    return Task.model_construct(
        base_model="somebody/a-model-of-the-hub", compute=ComputeSettings(training=place, prediction=place)
    )


def run_step(folder: Path, place: object, request: dict, module: str = "vlm_pipeline.training"):
    """One asset that starts the payload; returns the run's result and the failure's description, if any."""

    @dg.asset
    def made(context: dg.AssetExecutionContext, payloads: PayloadClient) -> dg.MaterializeResult:
        metadata = payloads.run(context, TaskStore("demo", folder / "store"), module, request, task_at(place))
        return dg.MaterializeResult(metadata={"steps": metadata.get("steps", 0)})

    with dg.instance_for_test() as instance:
        result = dg.materialize(
            [made], resources={"payloads": PayloadClient()}, instance=instance, raise_on_error=False
        )
        failures = [
            event.step_failure_data for event in result.all_events if event.event_type_value == "STEP_FAILURE"
        ]
        said = "\n".join(entry.user_message for entry in instance.all_logs(result.run_id))
    failure = failures[-1].user_failure_data if failures else None
    return result, failure.description if failure else "", said


def test_processes_of_accelerate_take_nothing_from_the_users_default_configuration(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    place = AcceleratePlace(kind="accelerate", processes=3)
    command = payload_command("vlm_pipeline.training", REQUEST, place)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[-3:] == ["--module", "vlm_pipeline.training", str(REQUEST)]
    assert command[command.index("--num_processes") + 1] == "3"
    assert "--mixed_precision" in command and "--config_file" not in command
    assert int(payload_environment(place)["OMP_NUM_THREADS"]) >= 1


def test_a_configuration_of_accelerate_lies_in_the_task_folder():
    place = AcceleratePlace(kind="accelerate", config="fsdp.yaml")
    command = payload_command("vlm_pipeline.training", REQUEST, place, Path("/tasks/mine"))
    assert command[command.index("--config_file") + 1] == "/tasks/mine/fsdp.yaml"
    with pytest.raises(ValidationError, match="leads out of the task folder"):
        AcceleratePlace(kind="accelerate", config="../else.yaml")


def test_a_pod_passes_the_clients_own_validation_with_the_store_mounted_where_it_lies():
    pipes = pytest.importorskip("dagster_k8s.pipes")
    kubernetes = pytest.importorskip("kubernetes")
    command = payload_command("vlm_pipeline.training", REQUEST, POD)
    body = pipes.build_pod_body(
        pod_name="payload", image=POD.image, command=command, env_vars={"A": "1"}, base_pod_meta={},
        base_pod_spec=pod_spec(POD, Path("/store")),
    )  # fmt: skip
    pod = kubernetes.client.ApiClient().sanitize_for_serialization(body)
    (container,) = pod["spec"]["containers"]
    assert container["command"] == ["python", "-m", "vlm_pipeline.training", str(REQUEST)]
    assert container["volumeMounts"] == [{"name": "store", "mountPath": "/store"}]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert container["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert pod["spec"]["volumes"] == [{"name": "store", "persistentVolumeClaim": {"claimName": "store"}}]
    assert pod["spec"]["nodeSelector"] == {"gpu": "h100"} and pod["spec"]["restartPolicy"] == "Never"


def test_a_place_whose_client_is_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    result, reason, said = run_step(tmp_path, POD, {})
    assert not result.success
    assert "pip install 'vlm_pipeline[kubernetes]'" in reason
    assert "never run on a real cluster" in said


def test_a_head_that_does_not_answer_is_named_at_once(tmp_path):
    pytest.importorskip("dagster_ray")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result, reason, _ = run_step(tmp_path, RayPlace(kind="ray", address=address), {})
    assert not result.success
    assert address in reason and "no Ray dashboard answers" in reason


def test_what_asks_hosted_models_stays_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dagster_k8s", None)
    result, reason, said = run_step(
        tmp_path, POD, {"needs_device": False, "predictors": []}, "vlm_pipeline.inference"
    )
    assert not result.success and "dagster_k8s" not in reason
    assert "never run on a real cluster" not in said
