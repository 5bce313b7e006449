"""Retrainings over a real archive, from clicks to a rollout, or to the reason why there is none."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deploy.training.retraining import start_once
from pipelines.archive.files import Archive
from pipelines.gates.planning import GatePlanner
from pipelines.runs.retraining import LOOK_AGAIN_MS
from pipelines.runs.schedule import STEPS
from registry import run_moves
from registry.artefacts import read
from registry.contracts.manifest import ATTRACTION_NDCG, JUDGED_NDCG
from registry.contracts.rollouts import default_spec
from registry.contracts.runs import Run, RunKind
from registry.errors import StoreUnavailable
from registry.mlflow_store import MlflowStore
from registry.rollout_moves import start
from registry.runs import SqlRuns, edit
from registry.store import StoredVersion
from registry.traffic_control import SqlControl
from tests.builders import NOW_MS
from tests.deploy.retrain_bench import (
    GOOD,
    MODEL,
    PART_MS,
    POOR,
    SETTINGS,
    UNTIL_MS,
    WITHIN_MS,
    RetrainBench,
    a_champion,
    log_of_clicks,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def clicked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of clicks; its windows are collected by whoever comes first."""
    folder = tmp_path_factory.mktemp("clicked")
    log_of_clicks(folder)
    return folder


@pytest.fixture
def folder(clicked: Path, tmp_path: Path) -> Path:
    for name in ("archive", "collected"):
        (clicked / name).mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(clicked / name)
    return tmp_path


@pytest.fixture
def bench(folder: Path) -> Iterator[RetrainBench]:
    made = RetrainBench.make(folder)
    yield made
    made.control.close()


def ask(bench: RetrainBench, kind: RunKind = "retrain", **changes: Any) -> Run:
    span = {"since_ms": NOW_MS, "until_ms": UNTIL_MS} | changes
    words: dict[str, Any] = {"who": "ann", "why": "a new season", "now_ms": UNTIL_MS}
    return bench.store.add(run_moves.ask(MODEL, kind, "api", span["since_ms"], span["until_ms"], STEPS[kind], **words))


def test_clicks_become_a_version_that_passed_its_gate_and_is_on_its_way(bench: RetrainBench) -> None:
    run = bench.finish(ask(bench))

    assert (run.state, [step.state for step in run.steps]) == ("succeeded", ["done"] * 7)
    rollout = bench.control.rollout(run.output_of("rollout")["rollout"])
    assert run.outcome == f"version 2 is in rollout {rollout.id}"
    assert (rollout.challenger, rollout.champion, rollout.state) == (2, 1, "running")
    stored = bench.versions().get(MODEL, 2)
    assert rollout.challenger_digest == stored.digest == run.output_of("export")["digest"]
    lineage = stored.manifest.lineage
    assert (lineage.dataset, lineage.parent) == (run.id, None)  # the champion is no ranker of ours
    assert lineage.training_window == ("2026-01-01T00:00:00+00:00", "2026-01-01T04:00:00+00:00")
    [evidence] = bench.control.evidence_of([run.output_of("register")["evidence"]])
    assert (evidence.kind, evidence.verdict, evidence.challenger) == ("offline_gate", "passed", 2)
    assert (evidence.champion_digest, evidence.challenger_digest) == (rollout.champion_digest, stored.digest)
    assert evidence.is_of(rollout)
    log = bench.run_logs[run.id]
    assert (log.run_id, log.state) == (lineage.run_id, "finished")
    assert sorted(log.curves["loss"]) == list(range(1, SETTINGS.max_epochs + 1))
    assert (bench.folder / "runs" / run.id / "export" / "version").is_dir()


def test_the_next_retraining_goes_on_from_the_champion_s_weights(bench: RetrainBench) -> None:
    first = bench.finish(ask(bench))
    package = read(bench.folder / "runs" / first.id / "export" / "version")
    bench.crown(package, 2, bench.control.revisions()[MODEL])

    second = bench.finish(ask(bench, since_ms=NOW_MS + PART_MS // 2))

    assert second.output_of("train")["parent"] == 2
    assert second.steps[4].state == "done"


def test_a_version_that_is_worse_is_stopped_at_the_gate_and_never_registered(folder: Path) -> None:
    with closing((bench := RetrainBench.make(folder, GOOD)).control):
        bench.settings = replace(SETTINGS, max_epochs=1, learning_rate=1e-6)
        run = bench.finish(ask(bench))

        assert run.state == "succeeded"
        assert run.output_of("gate")["verdict"] in ("failed", "inconclusive")
        assert "at the offline gate" in run.outcome
        assert [step.state for step in run.steps[5:]] == ["skipped", "skipped"]
        assert [one.version for one in bench.versions().versions(MODEL)] == [1]
        assert bench.control.rollouts(MODEL) == []
        [evidence] = bench.control.evidence_of([run.output_of("gate")["evidence"]])
        assert evidence.challenger == 0
        assert str(bench.folder / "runs" / run.id / "export" / "version") in run.outcome


def test_a_champion_from_judged_data_is_measured_on_the_clicks_as_the_challenger_is(bench: RetrainBench) -> None:
    bench.crown(a_champion(POOR, JUDGED_NDCG), 5, 1)

    run = bench.finish(ask(bench))

    assert (run.state, run.output_of("gate")["verdict"]) == ("succeeded", "passed")
    assert "and is measured anew here" in run.output_of("gate")["why"]
    [evidence] = bench.control.evidence_of([run.output_of("register")["evidence"]])
    assert evidence.body["definition"] == ATTRACTION_NDCG.digest
    assert evidence.body["champion_definition"] == JUDGED_NDCG.digest
    assert [one.challenger for one in bench.control.rollouts(MODEL)] == [run.output_of("register")["version"]]


def test_a_plan_that_wants_one_metric_for_both_holds_the_version_and_a_person_decides(bench: RetrainBench) -> None:
    bench.plan = msgspec.structs.replace(bench.plan, champion_anew=False)
    bench.crown(a_champion(POOR, JUDGED_NDCG), 5, 1)

    run = bench.finish(ask(bench))

    assert (run.state, run.output_of("gate")["verdict"]) == ("succeeded", "errored")
    assert run.outcome.startswith("not comparable: held at the offline gate (")
    assert "sluice models register" in run.outcome
    assert bench.control.rollouts(MODEL) == []


def test_a_window_without_clicks_is_an_outcome_and_no_failure(bench: RetrainBench) -> None:
    run = bench.finish(ask(bench, since_ms=NOW_MS - 3 * PART_MS, until_ms=NOW_MS - 2 * PART_MS))

    assert (run.state, run.steps[1].state) == ("succeeded", "skipped")
    assert run.outcome.startswith("nothing to learn from: none of 0 rankings counts")


def test_a_window_whose_clicks_can_still_come_waits_for_them(bench: RetrainBench) -> None:
    bench.now_ms = UNTIL_MS + WITHIN_MS - 1

    run = bench.finish(ask(bench))

    assert (run.state, run.retry_at_ms, run.step.attempts) == ("queued", UNTIL_MS + WITHIN_MS, 0)
    bench.now_ms += 1
    assert bench.finish(run).state == "succeeded"


def test_a_window_waits_for_an_archiver_that_is_behind_and_is_not_collected_without_what_is_on_its_way(
    bench: RetrainBench,
) -> None:
    (bench.folder / "collected").unlink()  # what other tests have collected
    run, behind = ask(bench), UNTIL_MS + WITHIN_MS - 1
    for archived_ms, words in ((None, "no archiver has said how far"), (behind, "the archive is complete until")):
        bench.archived_ms = archived_ms
        waits = bench.finish(run)
        assert (waits.state, waits.step.attempts, waits.retry_at_ms) == ("queued", 0, bench.now_ms + LOOK_AGAIN_MS)
        assert words in waits.step.saying
        bench.now_ms = waits.retry_at_ms

    bench.archived_ms = UNTIL_MS + WITHIN_MS
    assert bench.runner().advance(run.id) == "done"
    bench.archived_ms = None  # what is collected is collected
    assert bench.finish(ask(bench, "collect", since_ms=NOW_MS, until_ms=NOW_MS + PART_MS)).state == "succeeded"


def test_a_champion_that_changed_meanwhile_was_not_compared_with_and_a_retry_does(bench: RetrainBench) -> None:
    run = ask(bench)
    runner = bench.runner()
    for _ in range(2):
        assert runner.advance(run.id) == "done"
    bench.crown(a_champion((0.1, 1.0, 0.0)), 9, 1)

    failed = bench.finish(run)
    assert (failed.state, failed.step.name) == ("failed", "train")
    assert "@9 has become champion" in failed.error
    words: dict[str, Any] = {"who": "ann", "why": "compare anew", "now_ms": bench.now_ms}
    edit(bench.store, run.id, lambda found: run_moves.retry(found, **words, from_step="collect"))
    assert bench.finish(run).output_of("collect")["champion"] == 9


def test_where_no_rollout_can_begin_the_version_is_registered_and_says_why(bench: RetrainBench) -> None:
    other = StoredVersion(MODEL, 7, "7" * 64, a_champion(POOR).manifest, NOW_MS)
    words: dict[str, Any] = {"who": "ann", "why": "by hand", "now_ms": NOW_MS}
    bench.control.decide(start(bench.control.plan(MODEL), other, default_spec(), **words))

    run = bench.finish(ask(bench))

    assert run.state == "succeeded"
    assert run.outcome.startswith("version 2 is registered, and no rollout was started: ")
    assert "codesearch-2" in run.outcome
    assert [one.challenger for one in bench.control.rollouts(MODEL)] == [7]


def test_a_collection_of_its_own_is_found_done_by_a_retraining(bench: RetrainBench) -> None:
    weekly = bench.finish(ask(bench, "collect", since_ms=NOW_MS, until_ms=NOW_MS + PART_MS))
    assert weekly.outcome.endswith("position bias by swaps")

    run = bench.finish(ask(bench))

    assert run.output_of("collect")["windows"][0]["digest"] == weekly.output_of("collect")["digest"]


def test_older_windows_are_learnt_again(bench: RetrainBench) -> None:
    bench.finish(ask(bench, "collect", since_ms=NOW_MS, until_ms=NOW_MS + PART_MS))

    run = bench.finish(ask(bench, since_ms=NOW_MS + PART_MS))

    assert len(run.output_of("collect")["older"]) == 1
    assert run.output_of("dataset")["replay"] > 0


def test_a_rollout_of_a_run_is_started_once_whatever_is_killed(bench: RetrainBench) -> None:
    run = bench.finish(ask(bench))
    planner, spec = GatePlanner(Archive(bench.folder / "archive")), default_spec()
    challenger, (champion, _) = bench.versions().get(MODEL, 2), bench.champion(MODEL)

    again = start_once(bench.control, planner, run, challenger, champion, spec, True, lambda: bench.now_ms)

    assert again.rollout == run.output_of("rollout")["rollout"]
    assert bench.control.forget_receipts(bench.now_ms + 1) == 1  # a week later
    later = start_once(bench.control, planner, run, challenger, champion, spec, True, lambda: bench.now_ms)
    assert (later.rollout, later.why) == (again.rollout, "it is running")
    assert len(bench.control.rollouts(MODEL)) == 1


def test_a_registry_that_is_away_is_waited_for(bench: RetrainBench) -> None:
    run = ask(bench)
    there = bench.versions

    def away() -> Any:
        raise StoreUnavailable("MLflow does not answer")

    bench.versions = away
    runner = bench.runner()
    assert [runner.advance(run.id) for _ in range(6)] == [*["done"] * 5, "failed"]
    waits = bench.store.run(run.id)
    assert (waits.state, waits.step.name) == ("queued", "register")
    assert "MLflow does not answer" in waits.error

    bench.versions = there
    assert bench.finish(run).state == "succeeded"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # mlflow's own
def test_killed_in_each_of_its_steps_a_retraining_ends_as_if_nothing_had_been(folder: Path) -> None:
    """Each time with -9, at the worst moment: the step has done everything, and nobody has heard of it."""
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    ended: dict[str, Run] = {}
    for home, kills in ((undisturbed, [""]), (killed, [*STEPS["retrain"], ""])):
        home.mkdir()
        (home / "archive").symlink_to(folder / "archive")
        store = MlflowStore(f"sqlite:///{home}/mlflow.db", home / "artefacts")
        with closing(SqlControl(f"sqlite:///{home}/control.db")) as control:
            bench = RetrainBench(home, control, lambda store=store: store)
            bench.crown(a_champion(POOR), store.register(MODEL, a_champion(POOR)), 0)
            run = ask(bench)
            for step in kills:
                command = [sys.executable, "-m", "tests.deploy.retrain_bench", str(home), run.id, step]
                child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
                assert child.returncode == (-9 if step else 0), child.stderr[-4000:]
            ended[home.name] = SqlRuns(control.engine).run(run.id)
            assert [one.version for one in store.versions(MODEL)] == [1, 2]
            [rollout] = control.rollouts(MODEL)
            assert rollout.id == ended[home.name].output_of("rollout")["rollout"]
            assert len(control.evidence(MODEL)) == 1
            experiment = store._client.get_experiment_by_name(MODEL)
            logs = store._client.search_runs([experiment.experiment_id])
            assert len(logs) == 2  # the champion's, and one of this run

    one, other = ended["undisturbed"], ended["killed"]
    assert (one.state, other.state) == ("succeeded", "succeeded")
    assert other.lease == one.lease + 7
    for name in ("collect", "dataset", "gate"):
        assert other.output_of(name) == one.output_of(name)
    assert _without_log(undisturbed, one) == _without_log(killed, other)


def _without_log(home: Path, run: Run) -> list[bytes]:
    """The version but for the id that MLflow gave its log."""
    package = read(home / "runs" / run.id / "export" / "version")
    manifest = package.manifest
    lineage = msgspec.structs.replace(manifest.lineage, run_id="")
    return [package.program, package.profile_json, msgspec.structs.replace(manifest, lineage=lineage).encode()]
