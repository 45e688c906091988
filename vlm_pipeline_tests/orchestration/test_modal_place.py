"""Modal: what would be asked of the service, checked by its own client without a network; and what is done with the
answers, by a stand-in. It never ran there."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from vlm_pipeline.orchestration import modal_place
from vlm_pipeline.orchestration.modal_place import run_on_modal, sandbox_arguments
from vlm_pipeline.settings.compute import KubernetesPlace, ModalPlace
from vlm_pipeline.sharing.share import travelling_environment
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.orchestration.test_places import run_step

PLACE = ModalPlace(
    kind="modal", gpu="H100:2", secrets=["store-keys"], volume="models", options={"region": "eu"}
)
COMMAND = ["python", "-m", "vlm_pipeline.training", "/store/demo/requests/training-1.json"]
ENVIRONMENT = {"VLM_PIPELINE_STORE": "s3://box/store", "VLM_PIPELINE_WORKING_COPY": "/store"}


@pytest.mark.parametrize("gpu", ["A100", "A100-80GB", "H100", "H200", "H200:8", None])
def test_the_client_accepts_what_a_sandbox_is_asked_for(gpu: str | None, tmp_path: Path) -> None:
    modal = pytest.importorskip("modal")
    place = PLACE.model_copy(update={"gpu": gpu})
    (tmp_path / "task.yaml").write_text("name: demo")
    given = sandbox_arguments(modal, place, ENVIRONMENT, "training-1", [tmp_path])
    inspect.signature(modal.Sandbox.create).bind(*COMMAND, app=modal.App("vlm_pipeline"), **given)
    assert isinstance(given["image"], modal.Image)
    assert all(isinstance(one, modal.Secret) for one in given["secrets"])
    assert all(isinstance(one, modal.Volume) for one in given["volumes"].values())
    assert given["env"]["VLM_PIPELINE_STORE"] == "s3://box/store"
    assert given["region"] == "eu"


def test_the_clients_own_reader_understands_the_gpu() -> None:
    utilities = pytest.importorskip("modal._utils.function_utils")
    read = utilities.parse_gpu_config(PLACE.gpu)
    assert (read.gpu_type, read.count) == ("H100", 2)


@pytest.mark.parametrize("settings", [{"gpu": "H1000"}, {"gpu": "H100:9"}, {"timeout_s": 90_000}])
def test_what_modal_does_not_have_is_refused_in_the_task_file(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModalPlace(kind="modal", **settings)


def test_only_the_package_and_its_pins_are_shipped() -> None:
    project = Path(modal_place.vlm_pipeline.__file__).parents[1]
    left_out = modal_place._left_out(project)
    for path in (".env", ".git/config", ".vlm_pipeline/store/x", "data/manual_qa/raw/x.jsonl"):
        assert left_out(Path(path)) and left_out(project / path)
    assert not left_out(Path("vlm_pipeline/store.py")) and not left_out(project / "constraints.txt")


class Sandbox:
    def __init__(self, status: int = 0, broken: bool = False) -> None:
        self.object_id, self.returncode, self.ended = "sb-1", status, False
        self.stderr = ["step 1 of 2\n"]
        self.stdout = iter(self._broken()) if broken else ["{}\n"]

    def _broken(self) -> Any:
        yield "half a line"
        raise KeyboardInterrupt

    def wait(self, raise_on_termination: bool = True) -> None: ...

    def terminate(self) -> None:
        self.ended = True


def client(sandbox: Sandbox, left: Sandbox | None = None) -> Any:
    """What of the client's module is used, answering as the service would."""

    class NotFoundError(Exception): ...

    def find(app: str, name: str) -> Sandbox:
        if left is None:
            raise NotFoundError
        return left

    named = SimpleNamespace(from_name=lambda name, **_: name)
    return SimpleNamespace(
        App=SimpleNamespace(lookup=lambda name, create_if_missing: name),
        Image=SimpleNamespace(from_registry=lambda tag: tag),
        Sandbox=SimpleNamespace(create=lambda *command, **given: sandbox, from_name=find),
        Secret=named,
        Volume=named,
        exception=SimpleNamespace(NotFoundError=NotFoundError),
    )


@pytest.fixture
def step() -> Any:
    said: list[str] = []
    return SimpleNamespace(log=SimpleNamespace(info=said.append), said=said)


def run(modal: Any, step: Any) -> None:
    place = PLACE.model_copy(update={"image": "team/vlm:1"})
    run_on_modal(modal, place, step, COMMAND, ENVIRONMENT, "training-1", [])


def test_its_log_stands_in_the_step(step: Any) -> None:
    run(client(Sandbox()), step)
    assert "step 1 of 2" in step.said and "{}" in step.said


def test_a_payload_that_fails_there_fails_here(step: Any) -> None:
    with pytest.raises(RuntimeError, match="status 137 in sb-1"):
        run(client(Sandbox(status=137)), step)


def test_a_cancelled_run_ends_its_sandbox(step: Any) -> None:
    sandbox = Sandbox(broken=True)
    with pytest.raises(KeyboardInterrupt):
        run(client(sandbox), step)
    assert sandbox.ended


def test_a_sandbox_that_a_killed_run_left_is_ended_first(step: Any) -> None:
    left = Sandbox()
    run(client(Sandbox(), left), step)
    assert left.ended


@pytest.mark.parametrize("place", [PLACE, KubernetesPlace(kind="kubernetes", image="team/vlm:1")])
def test_a_place_that_cannot_see_a_folder_of_this_machine_says_so(place: Any, tmp_path: Path) -> None:
    result, reason, said = run_step(tmp_path, place, {})
    assert not result.success
    assert "set VLM_PIPELINE_STORE to a URL" in reason
    assert "never run on" in said


def test_a_worker_elsewhere_is_told_the_url_and_where_its_copy_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", "s3://box/store")
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(tmp_path))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    told = travelling_environment(TaskStore("demo"))
    assert told == {
        "VLM_PIPELINE_STORE": "s3://box/store",
        "VLM_PIPELINE_WORKING_COPY": str(tmp_path),
        "VLM_PIPELINE_SHARED_FOLDER": "demo",
    }


def test_modal_that_is_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", "memory://modal-test/store")
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(tmp_path / "store"))
    monkeypatch.setitem(sys.modules, "modal", None)
    result, reason, _ = run_step(tmp_path, PLACE, {})
    assert not result.success
    assert "pip install 'vlm_pipeline[modal]'" in reason
