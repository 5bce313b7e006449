"""What Prometheus sees of the supervisor's processes."""

from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from deploy.machine.home import prepare
from deploy.machine.metrics import ProcessCollector
from deploy.machine.state import PlatformState, ProcessState, read_state, state_file, write_state
from deploy.machine.supervision import Phase
from deploy.settings import PlatformSettings


def a_platform(tmp_path: Path) -> tuple[PlatformSettings, CollectorRegistry]:
    settings = PlatformSettings(home=tmp_path / "home")
    settings.run_folder.mkdir(parents=True)
    prepare(settings)
    registry = CollectorRegistry()
    registry.register(ProcessCollector(lambda: read_state(settings)))
    return settings, registry


def test_each_process_says_whether_it_is_ready_and_how_often_it_was_started_again(tmp_path: Path) -> None:
    settings, registry = a_platform(tmp_path)
    processes = (
        ProcessState("gateway-0", Phase.READY, 7, 1, 0, 0.0, ""),
        ProcessState("worker-0", Phase.RESTARTING, None, None, 3, 0.0, "killed by SIGKILL"),
    )
    write_state(settings, PlatformState(1, "boot", processes))

    def value(name: str, process: str) -> float | None:
        return registry.get_sample_value(name, {"process": process})

    assert value("deploy_process_ready", "gateway-0") == 1
    assert value("deploy_process_ready", "worker-0") == 0
    assert value("deploy_process_restarts_total", "gateway-0") == 0
    assert value("deploy_process_restarts_total", "worker-0") == 3


def test_without_a_supervisor_or_with_an_unreadable_file_the_other_metrics_are_told_all_the_same(
    tmp_path: Path,
) -> None:
    settings, registry = a_platform(tmp_path)

    assert b"deploy_process_ready{" not in generate_latest(registry)
    state_file(settings).write_bytes(b"{")
    assert b"deploy_process_ready{" not in generate_latest(registry)
