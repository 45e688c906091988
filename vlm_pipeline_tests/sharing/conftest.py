"""Machines that share a store: working copies of their own on this one."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from vlm_pipeline.sharing import share
from vlm_pipeline.sharing.bucket import Bucket, file_system
from vlm_pipeline.sharing.folder import SharedFolder
from vlm_pipeline.sharing.rows import SharedRows
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.servers.s3 import KEYS, Front, Moto, NoMoto, front_of, make_bucket, running_moto


@dataclass
class Machine:
    """One machine's working copy of a URL."""

    url: str
    root: Path
    patience_s: float = 20.0
    said: list[str] = field(default_factory=list)

    @property
    def store(self) -> TaskStore:
        return TaskStore("pages", self.root)

    @property
    def bucket(self) -> Bucket:
        return Bucket(self.url, self.said.append, self.patience_s)

    @property
    def folder(self) -> SharedFolder:
        return SharedFolder(self.store, self.bucket)

    @property
    def rows(self) -> SharedRows:
        return SharedRows(self.store.cache, self.bucket)

    def write(self, path: str, text: str | bytes) -> None:
        target = self.store.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode() if isinstance(text, str) else text)

    def files(self) -> dict[str, str]:
        """What lies in the folder, without what belongs to the working copy."""
        found = (path for path in self.store.base.rglob("*") if path.is_file())
        return {
            path.relative_to(self.store.base).as_posix(): path.read_text("utf-8", "replace")
            for path in found
            if not path.name.startswith(".shared")
        }


@pytest.fixture
def in_memory(tmp_path: Path) -> tuple[Machine, Machine]:
    """Two machines and a store in this process's memory: quick, and says nothing about a service."""
    url = f"memory://{uuid.uuid4().hex}/store"
    return Machine(url, tmp_path / "one"), Machine(url, tmp_path / "two")


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    if importlib.util.find_spec("s3fs") is None:
        pytest.skip("needs s3fs: pip install -c constraints.txt -e '.[s3]'")
    try:
        with running_moto() as server:
            yield server
    except NoMoto as error:
        pytest.skip(f"no S3 server on loopback: {error}")


@pytest.fixture
def front(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """A bucket behind a front that can make trouble; the environment leads there."""
    with front_of(moto) as front:
        for name, value in s3_environment(front.address).items():
            monkeypatch.setenv(name, value)
        file_system.cache_clear()
        share._CHECKED.clear()
        yield front
        file_system.cache_clear()


@pytest.fixture
def s3_url(front: Front) -> str:
    name = f"box-{uuid.uuid4().hex[:12]}"
    make_bucket(front.address, name)
    front.requests.clear()
    return f"s3://{name}/team/store"


@pytest.fixture
def machines(s3_url: str, tmp_path: Path) -> tuple[Machine, Machine]:
    return Machine(s3_url, tmp_path / "one"), Machine(s3_url, tmp_path / "two")


def s3_environment(address: str) -> dict[str, str]:
    """What leads a process to the loopback service; nothing of the person's own settings."""
    return {
        **KEYS,
        "AWS_ENDPOINT_URL": address,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
