"""A run step by step under a clock that is set by hand: leases, retries, damage, who is quicker."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import DataRefused, NotYet
from pipelines.runs.runner import Runner, sweep
from pipelines.runs.steps import Step, StepContext, StepResult, find_done
from pipelines.settings import RunSettings, parse_limits
from registry import run_moves
from registry.contracts.runs import Run
from registry.contracts.traces import Span
from registry.runs import MemoryRuns, edit
from tests.builders import NOW_MS, a_run

MINE = RunSettings(lease_s=10.0, beat_s=0.01, max_attempts=3, backoff_s=5.0, most_backoff_s=100.0)
PATIENCE_S = 30.0


@dataclass
class Bench:
    """A store, a clock and a runner. did: names of steps as they were done."""

    folder: Path
    store: MemoryRuns = field(default_factory=MemoryRuns)
    now_ms: int = NOW_MS
    did: list[str] = field(default_factory=list)
    steps: dict[str, Step] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.steps |= {"collect": self.step("collect"), "train": self.step("train")}

    def step(self, name: str) -> Step:
        def do(context: StepContext) -> StepResult:
            self.did.append(name)
            context.report(0.5, f"half of {name}")
            (context.folder / f"{name}.txt").write_text(f"{name} of {context.run.id}")
            return StepResult({"lines": 1})

        return do

    def runner(self, holder: str = "w1", tell: Callable[[Sequence[Span]], None] | None = None) -> Runner:
        return Runner(self.store, {"retrain": self.steps}, self.folder, MINE, lambda: self.now_ms / 1000, holder, tell)

    def add(self, **changes: Any) -> Run:
        return self.store.add(a_run(**changes))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs")


def test_a_run_is_done_step_by_step_with_what_each_left(bench: Bench) -> None:
    run = bench.add()

    assert [bench.runner().advance(run.id) for _ in range(2)] == ["done", "done"]

    ended = bench.store.run(run.id)
    assert (ended.state, bench.did) == ("succeeded", ["collect", "train"])
    assert (bench.folder / run.id / "train" / "train.txt").read_text() == f"train of {run.id}"
    assert ended.output_of("train") == {"lines": 1}
    assert {path.name for path in (bench.folder / run.id).iterdir()} == {"collect", "train", "scratch"}
    assert bench.runner().advance(run.id) == "busy"


def test_a_run_that_somebody_works_on_is_left_alone_until_he_falls_silent(bench: Bench) -> None:
    run = bench.add()
    bench.store.change(run_moves.claim(run, "w0", now_ms=NOW_MS, lease_ms=10_000))

    assert bench.runner("w1").advance(run.id) == "busy"
    bench.now_ms += 10_000
    assert bench.runner("w1").advance(run.id) == "done"
    assert bench.store.run(run.id).notes[-1].what == "taken_over"


def test_who_lost_his_run_writes_nothing_and_leaves_the_new_holder_s_work(bench: Bench) -> None:
    run = bench.add()

    def slow(context: StepContext) -> StepResult:
        bench.now_ms += 20_000  # the machine slept: the lease ran out, another took it up and was done
        if context.run.lease == 1:
            bench.steps["collect"] = bench.step("collect")
            assert bench.runner("w2").advance(run.id) == "done"
        return StepResult({"lines": 99})

    bench.steps["collect"] = slow
    assert bench.runner("w1").advance(run.id) == "lost"

    found = bench.store.run(run.id)
    assert (found.step.name, found.output_of("collect")) == ("train", {"lines": 1})
    assert find_done(bench.folder, found, found.steps[0]) is not None


def test_what_a_killed_worker_finished_and_could_not_tell_is_found_and_not_done_again(bench: Bench) -> None:
    run = bench.add()
    bench.runner().advance(run.id)
    told = bench.store.run(run.id)
    forgetful = Bench(bench.folder, did=bench.did)  # the tables never heard of it
    forgetful.store.add(run)

    assert forgetful.runner().advance(run.id) == "done"

    assert bench.did == ["collect"]
    assert forgetful.store.run(run.id).steps[0].digest == told.steps[0].digest


def test_a_step_left_half_written_is_done_anew_and_its_scratch_kept(bench: Bench) -> None:
    run = bench.add()
    (bench.folder / run.id / "collect.0").mkdir(parents=True)
    (bench.folder / run.id / "collect.0" / "half").write_text("hal")
    scratch = bench.folder / run.id / "scratch" / "collect"
    scratch.mkdir(parents=True)
    (scratch / "checkpoint").write_text("epoch 3")
    seen: list[str] = []
    plain = bench.step("collect")

    def look(context: StepContext) -> StepResult:
        seen.append((context.scratch / "checkpoint").read_text())
        return plain(context)

    bench.steps["collect"] = look
    assert bench.runner().advance(run.id) == "done"

    assert seen == ["epoch 3"]
    assert sorted(path.name for path in (bench.folder / run.id).iterdir()) == ["collect", "scratch"]
    assert not scratch.exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "collect.txt").write_text("other"),
        lambda folder: (folder / "collect.txt").unlink(),
        lambda folder: (folder / "step.json").unlink(),
        lambda folder: (folder / "more.txt").write_text("more"),
    ],
)
def test_a_step_whose_files_were_damaged_is_done_again_and_what_came_after_it_too(
    bench: Bench, harm: Callable[[Path], object]
) -> None:
    run = bench.add(steps=("collect", "train", "collect-again"))
    bench.steps["collect-again"] = bench.step("collect-again")
    bench.runner().advance(run.id)
    bench.runner().advance(run.id)
    harm(bench.folder / run.id / "collect")

    assert [bench.runner().advance(run.id) for _ in range(4)] == ["again", "done", "done", "done"]
    assert bench.did == ["collect", "train", "collect", "train", "collect-again"]
    assert bench.store.run(run.id).state == "succeeded"


def test_what_fails_is_tried_again_later_each_time_and_then_a_dead_letter(bench: Bench) -> None:
    run = bench.add()

    def broken(context: StepContext) -> StepResult:
        raise OSError("no space left on device")

    bench.steps["collect"] = broken
    waits = []
    for _ in range(MINE.max_attempts):
        assert bench.runner().advance(run.id) == "failed"
        found = bench.store.run(run.id)
        waits.append((found.state, found.retry_at_ms - bench.now_ms))
        assert bench.runner().advance(run.id) == "busy"
        bench.now_ms = max(bench.now_ms, found.retry_at_ms)

    assert waits[:2] == [("queued", 5_000), ("queued", 20_000)]
    dead = bench.store.run(run.id)
    assert (dead.state, dead.error) == ("dead", "OSError: no space left on device")
    bench.steps["collect"] = bench.step("collect")
    edit(bench.store, run.id, lambda found: run_moves.retry(found, who="ann", why="more disk", now_ms=bench.now_ms))
    assert [bench.runner().advance(run.id) for _ in range(2)] == ["done", "done"]


def test_data_that_break_a_rule_are_not_tried_again(bench: Bench) -> None:
    run = bench.add()

    def refused(context: StepContext) -> StepResult:
        raise DataRefused("week 3: no clicks: nothing to learn from")

    bench.steps["collect"] = refused
    bench.runner().advance(run.id)

    found = bench.store.run(run.id)
    assert (found.state, found.error, found.step.attempts) == ("failed", "week 3: no clicks: nothing to learn from", 1)


def test_a_step_that_has_to_wait_for_a_time_is_no_failure(bench: Bench) -> None:
    run = bench.add()
    plain = bench.step("collect")

    def early(context: StepContext) -> StepResult:
        if context.now_ms() < NOW_MS + 1000:
            raise NotYet("clicks can come until then", NOW_MS + 1000)
        return plain(context)

    bench.steps["collect"] = early
    assert [bench.runner().advance(run.id) for _ in range(2)] == ["waiting", "busy"]
    waits = bench.store.run(run.id)
    assert (waits.state, waits.step.attempts, waits.step.saying) == ("queued", 0, "clicks can come until then")
    bench.now_ms += 1000
    assert bench.runner().advance(run.id) == "done"


def test_a_step_that_kills_its_worker_each_time_ends_as_a_dead_letter(bench: Bench) -> None:
    run = bench.add()
    for _ in range(MINE.max_attempts):
        found = bench.store.run(run.id)
        bench.store.change(run_moves.claim(found, "w0", now_ms=bench.now_ms, lease_ms=10_000))
        bench.now_ms += 10_000  # killed: no word of it

    assert bench.runner().advance(run.id) == "dead"

    found = bench.store.run(run.id)
    assert (found.state, bench.did) == ("dead", [])
    assert found.error.startswith("its worker ended 3 times without a word")


def test_who_cancels_is_heard_while_the_step_is_under_way(bench: Bench) -> None:
    run = bench.add()
    began, patience = threading.Event(), threading.Event()

    def endless(context: StepContext) -> StepResult:
        began.set()
        while not patience.wait(0.001):
            context.report(0.3, "on and on")
        return StepResult()

    bench.steps["collect"] = endless
    came: list[str] = []
    thread = threading.Thread(target=lambda: came.append(bench.runner().advance(run.id)))
    thread.start()
    assert began.wait(PATIENCE_S)
    words: dict[str, Any] = {"who": "ann", "why": "wrong window", "now_ms": NOW_MS, "lease_ms": 10_000}
    edit(bench.store, run.id, lambda found: run_moves.cancel(found, **words))
    thread.join(PATIENCE_S)

    assert came == ["cancelled"]
    found = bench.store.run(run.id)
    assert (found.state, found.step.state) == ("cancelled", "waiting")
    assert not (bench.folder / run.id / "collect").exists()


def test_progress_is_in_the_tables_while_a_step_is_under_way_and_the_lease_is_renewed(bench: Bench) -> None:
    run = bench.add()
    seen: list[Run] = []

    def watched(context: StepContext) -> StepResult:
        context.report(0.25, "epoch 5 of 20")
        bench.now_ms += 3_000
        waits = threading.Event()
        while bench.store.run(run.id).step.progress != 0.25:
            assert not waits.wait(0.001)
        seen.append(bench.store.run(run.id))
        return StepResult()

    bench.steps["collect"] = watched
    assert bench.runner().advance(run.id) == "done"

    assert (seen[0].step.saying, seen[0].lease_until_ms) == ("epoch 5 of 20", NOW_MS + 13_000)


def test_an_outcome_ends_a_run_before_its_last_step(bench: Bench) -> None:
    run = bench.add()
    bench.steps["collect"] = lambda context: StepResult({"clicks": 0}, "nothing was clicked")

    assert bench.runner().advance(run.id) == "done"

    found = bench.store.run(run.id)
    assert (found.state, found.outcome, bench.did) == ("succeeded", "nothing was clicked", [])


def test_a_step_that_is_wanted_again_is_done_again_though_its_files_are_there(bench: Bench) -> None:
    run = bench.add()
    for _ in range(2):
        bench.runner().advance(run.id)
    edit(
        bench.store,
        run.id,
        lambda found: run_moves.retry(found, who="ann", why="again", now_ms=NOW_MS, from_step="train"),
    )

    assert bench.runner().advance(run.id) == "done"
    assert bench.did == ["collect", "train", "train"]


def test_what_old_runs_left_is_swept_away(bench: Bench) -> None:
    first, second = bench.add(), bench.add(until_ms=NOW_MS + 1)
    for run in (first, first, second):
        assert bench.runner().advance(run.id) == "done"

    assert sweep(bench.folder, [second.id]) == 1
    assert [path.name for path in bench.folder.iterdir()] == [second.id]


@pytest.mark.parametrize("text", ["train", "train=", "train=-1", "=5", "train=soon", "train=inf"])
def test_limits_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected step=seconds"):
        parse_limits(text)


@pytest.mark.parametrize(
    "wrong", [{"lease_s": 0.0}, {"beat_s": 20.0}, {"max_attempts": 0}, {"tick_s": 0.0}, {"limits": {"train": 0.0}}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"runs.{next(iter(wrong))}"):
        RunSettings(**wrong)


def test_a_run_is_one_trace_whoever_does_its_steps_and_however_often(bench: Bench) -> None:
    run = bench.add()
    told: list[Span] = []
    good = bench.steps["collect"]

    def broken(context: StepContext) -> StepResult:
        raise OSError("the disk is away")

    bench.steps["collect"] = broken
    assert bench.runner("w1", told.extend).advance(run.id) == "failed"
    bench.steps["collect"] = good
    bench.now_ms += 3_600_000
    assert [bench.runner(name, told.extend).advance(run.id) for name in ("w2", "w3")] == ["done", "done"]

    assert [(span.name, span.error) for span in told] == [
        ("collect", "OSError: the disk is away"),
        ("collect", ""),
        ("train", ""),
        ("retrain run", ""),
    ]
    assert len({span.trace_id for span in told}) == 1
    assert len({span.span_id for span in told}) == 4
    assert {span.parent_id for span in told[:3]} == {told[3].span_id}
    assert told[3].attributes["sluice.run.state"] == "succeeded"
