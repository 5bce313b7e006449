"""A real Prometheus and a real Alertmanager on free loopback ports, over the files of deploy/prometheus."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.free_ports import free_ports
from tests.prometheus_tools import ROOT, alertmanager, tool

FILES = ROOT / "deploy" / "prometheus"
PATIENCE_S = 60.0
EVERY = "1s"  # instead of 15: scrapes and evaluations


@dataclass(frozen=True)
class Watcher:
    """A running pair. url: of Prometheus; pager: of Alertmanager."""

    url: str
    pager: str
    client: httpx.Client  # one for all: making another takes longer than a query

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Series with their newest value. Raises AssertionError with Prometheus' words where it takes none."""
        answer = self.client.get(f"{self.url}/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", f"{expr}: {answer}"
        result = answer["data"]["result"]
        return [{"metric": {}, "value": result}] if answer["data"]["resultType"] == "scalar" else list(result)

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with the health of their last evaluation."""
        groups = self.client.get(f"{self.url}/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def told(self) -> set[str]:
        """Names of the alerts that have arrived at Alertmanager."""
        alerts = self.client.get(f"{self.pager}/api/v2/alerts").json()
        return {alert["labels"]["alertname"] for alert in alerts}


@contextmanager
def watching(target: str, folder: Path) -> Iterator[Watcher]:
    """Both, as deploy/prometheus has them but for the target, the ports and the pace; ended by their own pids."""
    ports = free_ports(3)
    configuration = yaml.safe_load((FILES / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    configuration["rule_files"] = [str(FILES / name) for name in configuration["rule_files"]]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    configuration["alerting"]["alertmanagers"] = [{"static_configs": [{"targets": [f"127.0.0.1:{ports[1]}"]}]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    with ExitStack() as running:
        client = running.enter_context(httpx.Client(timeout=30.0))
        watcher = Watcher(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", client)
        _start(
            running,
            folder / "alertmanager.log",
            alertmanager(),
            f"--config.file={FILES / 'alertmanager.yml'}",
            f"--storage.path={folder / 'pager'}",
            f"--web.listen-address=127.0.0.1:{ports[1]}",
            "--cluster.listen-address=",
        )
        _start(
            running,
            folder / "prometheus.log",
            tool("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'series'}",
            f"--web.listen-address=127.0.0.1:{ports[0]}",
            "--log.level=warn",
        )
        _until_ready(watcher, folder)
        yield watcher


def _start(running: ExitStack, log: Path, *command: str) -> None:
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, cwd=log.parent)
    running.callback(process.wait, PATIENCE_S)
    running.callback(process.terminate)


def _until_ready(watcher: Watcher, folder: Path) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    waiting = {f"{watcher.url}/-/ready", f"{watcher.pager}/-/ready"}
    while waiting:
        for url in list(waiting):
            try:
                if watcher.client.get(url).status_code == 200:
                    waiting.discard(url)
            except httpx.TransportError:
                pass
        if time.monotonic() > give_up_s:
            logs = "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise AssertionError(f"not ready within {PATIENCE_S:g} s: {waiting}: {logs}")
        time.sleep(0.05)
