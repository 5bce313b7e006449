"""The real supervisor, as a process of its own, over real processes."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import redis

from deploy.machine.identity import boot_id, identify
from deploy.machine.state import PlatformState, ProcessState, end_leftovers, read_state, write_state
from deploy.machine.supervision import Phase
from deploy.settings import PlatformSettings
from tests.deploy.platforms import PATIENCE_S, Platforms, gone, pid_of, process_of, until


def test_a_killed_process_is_restarted_and_the_others_do_not_notice(platforms: Platforms):
    supervisor = platforms.start("three")
    before = platforms.ready(supervisor)

    os.kill(pid_of(before, "middle-0"), signal.SIGKILL)

    back = platforms.in_phase(supervisor, "middle-0", Phase.READY, restarts=1)
    assert back.pid != pid_of(before, "middle-0")
    assert back.last_exit == "killed by SIGKILL"
    after = platforms.ready(supervisor)
    assert [pid_of(after, name) for name in ("base", "top")] == [pid_of(before, name) for name in ("base", "top")]


def test_a_disk_that_refuses_the_state_ends_nobody_and_gets_it_later(platforms: Platforms):
    supervisor = platforms.start("three")
    before = platforms.ready(supervisor)
    in_the_way = platforms.settings.run_folder / f"state.json.{supervisor.pid}.tmp"
    in_the_way.mkdir()

    os.kill(pid_of(before, "middle-0"), signal.SIGKILL)
    until(lambda: gone(pid_of(before, "middle-0")), "it to be gone")
    until(lambda: "cannot be written" in platforms.settings.log_file.read_text(), "the log to say so")
    assert supervisor.poll() is None
    in_the_way.rmdir()

    assert platforms.in_phase(supervisor, "middle-0", Phase.READY, restarts=1).pid != pid_of(before, "middle-0")


def test_an_orderly_stop_goes_in_reverse_start_order(platforms: Platforms):
    supervisor = platforms.start("three")
    running = platforms.ready(supervisor)

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(PATIENCE_S) == 0
    assert (platforms.settings.home / "stopped").read_text().split() == ["top", "middle-0", "base"]
    assert gone(*(pid_of(running, process.name) for process in running.processes))
    stopped = read_state(platforms.settings)
    assert stopped and {process.phase for process in stopped.processes} == {Phase.STOPPED}


def test_who_ignores_the_stop_signal_is_killed(platforms: Platforms):
    supervisor = platforms.start("stubborn")
    platforms.ready(supervisor)

    supervisor.send_signal(signal.SIGTERM)

    assert supervisor.wait(PATIENCE_S) == 0
    assert process_of(read_state(platforms.settings), "stubborn").last_exit == "killed by SIGKILL"


def test_nothing_runs_on_when_the_supervisor_is_killed(platforms: Platforms):
    supervisor = platforms.start("three")
    running = platforms.ready(supervisor)

    supervisor.kill()

    until(lambda: gone(*(pid_of(running, process.name) for process in running.processes)), "all are gone")


def test_a_second_supervisor_is_refused_and_told_the_pid_of_the_first(platforms: Platforms):
    first = platforms.start("three")
    platforms.ready(first)

    second = platforms.start("three")

    assert second.wait(PATIENCE_S) != 0
    assert second.stderr and f"(supervisor {first.pid})" in second.stderr.read()
    assert first.poll() is None


def test_the_next_supervisor_ends_what_a_killed_one_left_running(platforms: Platforms):
    killed = platforms.start("stubborn")
    left = pid_of(platforms.ready(killed), "stubborn")
    killed.kill()
    killed.wait()
    assert identify(left), "it ignores the signal that comes with its parent's death"

    new = pid_of(platforms.ready(platforms.start("stubborn")), "stubborn")

    assert gone(left) and new != left


def test_a_pid_that_is_somebody_elses_by_now_is_not_touched(platforms: Platforms):
    bystander = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        found = identify(bystander.pid)
        assert found is not None
        _write_recorded(platforms.settings, found.pid, found.started_ticks - 1)

        assert end_leftovers(platforms.settings, grace_s=0.1) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def _write_recorded(settings: PlatformSettings, pid: int, started_ticks: int) -> None:
    """As a supervisor of this boot would have, that ran this process."""
    settings.run_folder.mkdir(parents=True)
    recorded = ProcessState("worker-0", Phase.READY, pid, started_ticks, 0, 0.0, "")
    write_state(settings, PlatformState(1, boot_id(), (recorded,)))


def test_what_a_process_started_ends_with_it(platforms: Platforms):
    supervisor = platforms.start("family")
    running = platforms.ready(supervisor)
    grandchild = int((platforms.settings.home / "grandchild").read_text())
    assert identify(grandchild)

    os.kill(pid_of(running, "parent"), signal.SIGKILL)

    until(lambda: gone(grandchild), "the grandchild is gone")


def test_who_is_nice_yields_the_processor_among_processes_and_among_sessions(platforms: Platforms):
    running = platforms.ready(platforms.start("polite"))

    first, second = pid_of(running, "first"), pid_of(running, "second")

    assert os.getpriority(os.PRIO_PROCESS, second) - os.getpriority(os.PRIO_PROCESS, first) == 5
    autogroup = Path(f"/proc/{second}/autogroup")
    if autogroup.exists() and "/autogroup-" in autogroup.read_text():
        assert autogroup.read_text().endswith(" nice 5\n")
        assert Path(f"/proc/{first}/autogroup").read_text().endswith(" nice 0\n")


def test_a_crash_loop_is_visible(platforms: Platforms):
    supervisor = platforms.start("looping")

    found = platforms.in_phase(supervisor, "looping", Phase.FAILED, restarts=4)

    assert found.last_exit == "exit 1"


def test_lines_of_all_processes_are_in_one_log_with_their_names(platforms: Platforms):
    platforms.ready(platforms.start("three"))
    log = platforms.settings.log_file

    until(lambda: "top is up" in log.read_text(), "the line is written")
    assert '"level":"WARNING","message":"WARNING middle-0 is up","process":"middle-0"' in log.read_text()
    assert '"process":"supervisor"' in log.read_text()


def test_redis_keeps_what_it_acknowledged_through_a_kill(platforms: Platforms):
    supervisor = platforms.start("redis")
    server = pid_of(platforms.ready(supervisor), "redis")
    socket_path = platforms.settings.redis_socket
    with redis.Redis(unix_socket_path=str(socket_path)) as client:
        client.set("kept", "yes")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert socket_path.stat().st_mode & 0o777 == 0o600

    os.kill(server, signal.SIGKILL)

    platforms.in_phase(supervisor, "redis", Phase.READY, restarts=1)
    with redis.Redis(unix_socket_path=str(socket_path)) as client:
        assert client.get("kept") == b"yes"


@pytest.mark.parametrize("folder", ["data folder", 'quote"d', "schön", "deep/" * 30])
def test_redis_starts_whatever_the_data_folder_is_called(tmp_path: Path, folder: str):
    settings = PlatformSettings(home=tmp_path / folder, gateway_port=0, grpc_port=0, mlflow_port=0)
    with Platforms(settings) as platforms:
        platforms.ready(platforms.start("redis"))

        assert (settings.redis_folder / "appendonly.aof").exists()


def test_a_taken_port_is_an_error_that_names_the_setting(platforms: Platforms):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])

        _, told = platforms.start("three", SLUICE_GATEWAY_PORT=port).communicate(timeout=PATIENCE_S)

    assert f"SLUICE_GATEWAY_PORT={port}: expected a free port of 127.0.0.1" in told
