"""A real S3 API on loopback: moto's server in an environment of its own (its boto3 would drag s3fs back), and a front
before it that can be away, cut connections, lose answers and refuse."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

REQUIREMENTS = ("moto[s3]==5.2.5", "flask", "flask-cors")
KEYS = {"AWS_ACCESS_KEY_ID": "loopback-id", "AWS_SECRET_ACCESS_KEY": "loopback-secret"}
_PLACE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "vlm_pipeline", "moto-5.2.5")


class NoMoto(RuntimeError):
    """The server's environment cannot be made; the message says why."""


def moto_environment() -> Path:
    """The folder of moto's virtual environment, made once for all checkouts of this user (about a minute)."""
    ready = _PLACE / ".ready"
    _PLACE.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_PLACE.with_suffix(".lock")):
        if not ready.exists():
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(_PLACE)],
                [str(_PLACE / "bin" / "pip"), "install", "--quiet", *REQUIREMENTS],
            ):
                made = subprocess.run(command, env=_bare(), capture_output=True, text=True, check=False)
                if made.returncode:
                    raise NoMoto(f"{' '.join(command[-3:])} failed: {made.stderr.strip()[-300:]}")
            ready.touch()
    return _PLACE


@dataclass
class Moto:
    """A running server; `stop` and `go` freeze and thaw its process: a service that takes connections and is silent."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_moto(**environment: str) -> Iterator[Moto]:
    """A server with nothing in it. Raises NoMoto where its environment cannot be made."""
    port = free_port()
    process = subprocess.Popen(
        [str(moto_environment() / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)],
        env={**_bare(), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto_server does not come up (status {process.poll()})")
            time.sleep(0.1)
        yield Moto(process, port)
    finally:
        process.kill()
        process.wait()


def _bare() -> dict[str, str]:
    """Without what leads to the packages of this process: an environment of its own has its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass(frozen=True)
class Request:
    method: str
    path: str  # with its query
    size: int  # bytes of the body

    @property
    def uploads_a_part(self) -> bool:
        return self.method == "PUT" and "partNumber=" in self.path

    @property
    def puts_a_state(self) -> bool:
        return self.method == "PUT" and "/states/" in self.path


#: what happens to a request: "" it is handed on; "cut" the connection ends in the middle of its body;
#: "lose" it is done, and the answer is not given; "403 QuotaExceeded" it is refused so
Trouble = Callable[[Request], str]


@dataclass
class Front:
    """Stands before the server on a port of its own; remembers every request."""

    server: Moto
    port: int = field(default_factory=free_port)
    trouble: Trouble = lambda request: ""
    requests: list[Request] = field(default_factory=list)
    _http: ThreadingHTTPServer | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        front = self

        class Handler(_Handler):
            stands_before = front

        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def down(self) -> None:
        """Nobody listens: connections are refused until `up`."""
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def puts(self, part: str = "") -> list[Request]:
        return [one for one in self.requests if one.method == "PUT" and part in one.path]


@contextmanager
def front_of(server: Moto) -> Iterator[Front]:
    front = Front(server)
    front.up()
    try:
        yield front
    finally:
        front.down()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stands_before: Front

    def log_message(self, *arguments: object) -> None:
        pass

    def _serve(self) -> None:
        front = self.stands_before
        self.close_connection = True
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise NotImplementedError("this front reads bodies of a stated length only")
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        size = int(self.headers.get("Content-Length") or 0)
        request = Request(self.command, self.path, size)
        front.requests.append(request)
        trouble = front.trouble(request)
        if trouble == "cut":
            self.rfile.read(size // 2)
            return
        body = self.rfile.read(size)
        if trouble and trouble != "lose":
            status, _, code = trouble.partition(" ")
            told = f"<Error><Code>{code}</Code><Message>{code}, as the test wants it</Message></Error>"
            self._answer(int(status), {"Content-Type": "application/xml"}, told.encode())
            return
        inner = http.client.HTTPConnection("127.0.0.1", front.server.port, timeout=120)
        given = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        inner.request(self.command, self.path, body, given)
        answer = inner.getresponse()
        data = answer.read()
        inner.close()
        if trouble != "lose":
            self._answer(answer.status, dict(answer.getheaders()), data)

    def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", length)
        self.send_header("Connection", "close")
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve


def make_bucket(address: str, name: str) -> None:
    """A new bucket, asked for without a signature: moto lets it pass."""
    place = urlsplit(address)
    asked = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    asked.request("PUT", f"/{name}", headers={"Host": f"{place.netloc}"})
    answer = asked.getresponse()
    assert answer.status == 200, answer.read()
    asked.close()
