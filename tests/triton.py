"""A real tritonserver with its Python backend, on free loopback ports, for tests and benches.

`deploy/scripts/triton-venv` installs the binary. A model is its config.pbtxt and its model.py, as
Triton wants them; model.py finds numpy and this platform's torch.
"""

import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.free_ports import free_ports
from tests.missing_tools import lacks

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv-triton"
READY_WITHIN_S = 60.0
TORCH_SITE = sysconfig.get_path("purelib")


@dataclass(frozen=True)
class RemoteSource:
    """A model for the Python backend: Triton's configuration without the name, and model.py."""

    config: str
    code: str


@dataclass
class TritonServer:
    """A server over a model repository; may be killed and started again on the same ports."""

    folder: Path
    http_port: int
    grpc_port: int
    core: int | None = None
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        """Of its gRPC front end, as SLUICE_TRITON_SERVERS wants it."""
        return f"127.0.0.1:{self.grpc_port}"

    def start(self) -> None:
        """Starts it and waits until its models are ready. Raises RuntimeError with the end of its log."""
        site = _site_packages()
        home = site / "pytriton" / "tritonserver"
        # the backend's stub links libpython by name: the interpreter's own must be found first
        libraries = [sysconfig.get_config_var("LIBDIR"), site / "nvidia_pytriton.libs", f"{TORCH_SITE}/torch/lib"]
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        pinned = ["taskset", "-c", str(self.core)] if self.core is not None else []
        told = [
            f"--model-repository={self.folder / 'models'}",
            f"--backend-directory={self.folder / 'backends'}",
            f"--http-port={self.http_port}",
            f"--grpc-port={self.grpc_port}",
            "--http-address=127.0.0.1",
            "--grpc-address=127.0.0.1",
            "--http-thread-count=2",
            "--allow-metrics=false",
            "--disable-auto-complete-config",
            "--log-info=false",
        ]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [*pinned, str(home / "bin" / "tritonserver"), *told], env=environment, stdout=log, stderr=log
            )
        until_s = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > until_s:
                self.kill()
                raise RuntimeError(f"tritonserver is not ready:\n{(self.folder / 'log').read_text()[-4000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Orderly; at the latest after ten seconds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """At once, its backends' processes too: they notice within a second by themselves."""
        self._end(signal.SIGKILL)

    def pids(self) -> list[int]:
        """The server and the processes of its models."""
        if self.process is None:
            return []
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        return [self.process.pid, *(int(pid) for listed in children for pid in listed.read_text().split())]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/v2/health/ready", timeout=1) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


@contextmanager
def a_triton(models: Mapping[str, RemoteSource], core: int | None = None) -> Iterator[TritonServer]:
    """A ready server of these models, gone afterwards. Skips the test if the binary is not installed."""
    require_triton()
    site = _site_packages()
    with tempfile.TemporaryDirectory(prefix="sluice-triton-") as made:
        folder = Path(made)
        for name, source in models.items():
            place = folder / "models" / name
            (place / "1").mkdir(parents=True)
            (place / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{source.config}')
            # the stub's interpreter is isolated: no PYTHONPATH reaches it
            found = f"import sys\nsys.path[:0] = [{str(site)!r}, {TORCH_SITE!r}]\n"
            (place / "1" / "model.py").write_text(found + source.code)
        stub = f"python_backend_stubs/{sysconfig.get_python_version()}/triton_python_backend_stub"
        backend = folder / "backends" / "python"
        shutil.copytree(site / "pytriton" / "tritonserver" / "backends" / "python", backend)
        shutil.copy(site / "pytriton" / "tritonserver" / stub, backend)
        server = TritonServer(folder, *free_ports(2), core=core)
        try:
            server.start()
            yield server
        finally:
            server.stop()


def require_triton() -> None:
    """Skips the test, with the reason, where tritonserver is not installed; fails it where nothing may be skipped."""
    if (VENV / ".installed").exists():
        return
    lacks("no tritonserver: deploy/scripts/triton-venv installs it")


def _site_packages() -> Path:
    return next((VENV / "lib").glob("python3.*/site-packages"))
