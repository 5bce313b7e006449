from dataclasses import replace

import pytest

from deploy.machine.supervision import Action, Phase, Process, ProcessSpec, RestartPolicy, decide

REDIS = ProcessSpec("redis", ("redis-server",))
WORKER = ProcessSpec("worker", ("worker",), needs=("redis",), start_timeout_s=60, stop_grace_s=10)


def running(spec: ProcessSpec, since_s: float = 0.0) -> Process:
    return Process(spec).started(pid=7, now_s=since_s).ready(since_s)


def crashed(spec: ProcessSpec, times: int) -> Process:
    """Died so often in a row, the last time at second 0."""
    process = Process(spec)
    for _ in range(times):
        process = process.started(pid=7, now_s=0.0).exited("exit 1", now_s=0.0)
    return process


def test_a_process_waits_for_what_it_needs():
    waiting = Process(WORKER)

    assert decide([Process(REDIS), waiting], now_s=0, stopping=False) == [Action("start", "redis")]
    assert decide([Process(REDIS).started(7, 0), waiting], now_s=1, stopping=False) == []
    assert decide([running(REDIS), waiting], now_s=1, stopping=False) == [Action("start", "worker")]


def test_a_process_is_restarted_though_what_it_needs_is_away():
    redis_away = running(REDIS).exited("exit 1", now_s=100)

    assert Action("start", "worker") in decide([redis_away, crashed(WORKER, 1)], now_s=100, stopping=False)


def test_what_runs_is_left_alone():
    assert decide([running(REDIS), running(WORKER)], now_s=1e6, stopping=False) == []


@pytest.mark.parametrize(("times", "delay_s"), [(1, 0.1), (2, 0.2), (4, 0.8), (9, 25.6), (10, 30.0), (1000, 30.0)])
def test_each_failure_in_a_row_doubles_the_delay_up_to_30_s(times: int, delay_s: float):
    process = crashed(REDIS, times)

    assert decide([process], now_s=delay_s - 0.01, stopping=False) == []
    assert decide([process], now_s=delay_s, stopping=False) == [Action("start", "redis")]


def test_a_healthy_minute_is_forgiven_what_was_before():
    looping = crashed(REDIS, 7).started(pid=8, now_s=0).ready(now_s=1)

    assert looping.exited("exit 1", now_s=59).failures == 8
    assert looping.exited("exit 1", now_s=60).failures == 1


def test_a_process_that_never_became_ready_was_not_healthy():
    assert crashed(REDIS, 3).started(pid=8, now_s=0).exited("exit 1", now_s=3600).failures == 4


def test_a_crash_loop_is_called_failed_and_still_tried():
    spec = replace(REDIS, restart=RestartPolicy(crash_loop=3))

    assert crashed(spec, 2).phase is Phase.RESTARTING
    assert crashed(spec, 3).phase is Phase.FAILED
    assert decide([crashed(spec, 3)], now_s=30, stopping=False) == [Action("start", "redis")]


def test_a_process_that_is_not_ready_in_time_is_killed_once_and_restarted():
    hanging = Process(WORKER).started(pid=7, now_s=0)

    assert decide([running(REDIS), hanging], now_s=60, stopping=False) == []
    assert decide([running(REDIS), hanging], now_s=61, stopping=False) == [Action("kill", "worker")]
    assert decide([running(REDIS), hanging.killed(61)], now_s=62, stopping=False) == []
    assert hanging.killed(61).exited("killed by SIGKILL", 61).phase is Phase.RESTARTING


def test_restarts_count_every_start_but_the_first():
    assert Process(REDIS).started(7, 0).restarts == 0
    assert crashed(REDIS, 3).restarts == 2


def test_the_last_started_stops_first_and_the_next_waits_until_it_is_gone():
    redis, worker = running(REDIS), running(WORKER)
    assert decide([redis, worker], now_s=0, stopping=True) == [Action("stop", "worker")]

    worker = worker.stopping(now_s=0)
    assert decide([redis, worker], now_s=9, stopping=True) == []

    worker = worker.exited("exit 0", now_s=9)
    assert decide([redis, worker], now_s=9, stopping=True) == [Action("stop", "redis")]
    assert decide([redis.stopping(9).exited("exit 0", 9), worker], now_s=9, stopping=True) == []


def test_who_does_not_stop_in_its_grace_is_killed():
    worker = running(WORKER).stopping(now_s=0)

    assert decide([running(REDIS), worker], now_s=10, stopping=True) == [Action("kill", "worker")]


def test_stopping_what_does_not_run_leaves_nothing_to_wait_for():
    assert Process(WORKER).stopping(now_s=0).phase is Phase.STOPPED
    assert crashed(WORKER, 1).stopping(now_s=0).phase is Phase.STOPPED


def test_an_exit_while_stopping_is_no_failure():
    stopped = running(WORKER).stopping(now_s=0).exited("killed by SIGTERM", now_s=1)

    assert (stopped.phase, stopped.failures) == (Phase.STOPPED, 0)


def test_a_process_says_how_it_is():
    assert str(running(WORKER)) == "<Process worker [READY | pid 7 | 0 restarts]>"
