"""From mirrored queries to evidence that a rollout is decided on: in memory, and with the real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from deploy import wiring
from deploy.settings import PlatformSettings
from deploy.verdicts.rank_evidence import RankEvidence
from drift.mirrors.monitor import GROUP, MirrorMonitor
from drift.mirrors.rank_diff import RankDiff
from drift.settings import RankDiffSettings
from registry.artefacts import write
from registry.contracts.events import MirrorEvent, encode_event, join_events
from registry.contracts.rollouts import Evidence
from registry.stream import MemoryStream, RedisStream
from registry.traffic_control import MemoryControl, SqlControl
from serving.event_log import EventLog
from serving.journal import Journal
from tests.builders import NOW_MS, a_package, a_tested_plan
from tests.deploy.platforms import ROOT, Platforms, pid_of, until
from tests.drift.mirrored import mirrors
from tests.pipelines.rollout_bench import Surroundings
from tests.serving.test_routing import a_plan_of, an_experiment, asked, loader
from tests.serving.workbench import SumOfFeatures

MINUTE_MS = 60_000


@dataclass
class Chain:
    """A gateway's event log, the stream, the mirror monitor and the control tables, all in memory."""

    folder: Path
    stream: MemoryStream = field(default_factory=MemoryStream)
    control: MemoryControl = field(default_factory=MemoryControl)
    now_ms: int = NOW_MS + MINUTE_MS // 2

    def log(self, events: list[MirrorEvent]) -> None:
        with Journal(self.folder / "events", 1 << 20) as journal:
            event_log = EventLog(journal, self.stream)
            for event in events:
                event_log.mirrored(event)
            assert event_log.ship()

    def watch(self) -> list[Evidence]:
        """What is known once everything is read and a minute more has passed."""
        monitor = MirrorMonitor(
            self.stream.reader(GROUP, "monitor-0"),
            lambda model, version: (0.0, 1.0),
            RankEvidence(lambda: self.control).keep,
            RankDiffSettings(),
            self.folder / "mirrors.windows",
            clock=lambda: self.now_ms / 1000,
        )
        while monitor.step(0):
            pass
        self.now_ms += 2 * MINUTE_MS
        monitor.step(0)
        return self.control.evidence("codesearch")


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ({}, "passed"),
        ({"noise": 50.0}, "failed"),
        ({"error_share": 0.1}, "failed"),
        ({"slower": 6.0}, "failed"),
    ],
)
def test_what_gateways_mirror_is_evidence_of_the_plans_versions(
    tmp_path: Path, how: dict[str, float], verdict: str
) -> None:
    chain = Chain(tmp_path)
    plan = a_tested_plan(weight=0)
    chain.control.change(plan, expected_revision=0, who="me", why="mirror", evidence={}, now_ms=NOW_MS)
    chain.log(mirrors(3, 1500, every_ms=20, **how))  # type: ignore[arg-type]

    (evidence,) = chain.watch()

    assert (evidence.kind, evidence.verdict, evidence.plan_revision) == ("rank_diff", verdict, 1)
    assert (evidence.champion_digest, evidence.challenger_digest) == (plan.champion_digest, plan.experiments[0].digest)
    diff = msgspec.convert(evidence.body, RankDiff)
    assert (diff.step.mirrored, diff.step.unfit) == (1500, 0)


@pytest.mark.parametrize(
    ("how", "queries", "becomes"),
    [
        ({}, 1500, ("running", "ab-10")),
        ({"noise": 50.0}, 1500, ("rolled_back", "mirror")),
        ({"error_share": 1.0}, 1500, ("rolled_back", "mirror")),
        ({}, 50, ("running", "mirror")),
    ],
    ids=["alike", "another order", "no lists", "too few"],
)
def test_a_rollouts_mirror_step_is_left_by_its_rank_diff_alone(
    tmp_path: Path, how: dict[str, float], queries: int, becomes: tuple[str, str]
) -> None:
    control = MemoryControl()
    places = Surroundings(control)
    rollout = places.start()
    places.post(rollout, "offline_gate")
    assert places.turn() == 1
    in_mirror = control.rollout(rollout.id)
    assert (in_mirror.current_step.name, places.turn(after_s=60.0)) == ("mirror", 0)

    chain = Chain(tmp_path, control=control, now_ms=places.now_ms + MINUTE_MS // 2)
    fields = {"experiment": in_mirror.experiment, "plan_revision": in_mirror.plan_revision}
    chain.log(mirrors(3, queries, start_ms=places.now_ms, every_ms=20, **how, **fields))  # type: ignore[arg-type]
    chain.watch()
    places.now_ms = chain.now_ms
    places.turn()

    found = control.rollout(rollout.id)
    assert (found.state, found.current_step.name) == becomes


def test_a_minute_in_which_nothing_is_mirrored_is_no_evidence(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.control.change(a_tested_plan(), expected_revision=0, who="me", why="", evidence={}, now_ms=NOW_MS)

    assert chain.watch() == []


def test_a_gateway_and_workers_that_mirror_give_the_figures_of_their_lists(tmp_path: Path) -> None:
    """Version 2 ranks the other way round, version 3 as the champion does."""
    plan = a_plan_of([an_experiment("turned", 2, mirror_share=1000), an_experiment("same", 3, mirror_share=1000)])
    chain = Chain(tmp_path, now_ms=time.time_ns() // 1_000_000 + MINUTE_MS)
    chain.control.change(plan, expected_revision=0, who="me", why="mirror", evidence={}, now_ms=NOW_MS)
    with asked(loader({3: SumOfFeatures()}), plan=plan) as (asker, _):
        for query in range(220):
            asker.ask(unit=f"user-{query}", top_k=10)
        mirrored = asker.mirrored()
    chain.log(mirrored)

    found = {one.experiment: one for one in chain.watch()[-2:]}

    assert (found["turned"].challenger, found["same"].challenger) == (2, 3)
    for name, measured in (("turned", (0.0, 0.0, 0.0, 1.0)), ("same", (1.0, 1.0, 1.0, 0.0))):
        diff = msgspec.convert(found[name].body, RankDiff)
        means = {estimate.measure: estimate.mean for estimate in diff.step.estimates}
        overlap = ("overlap", "rank_biased_overlap", "first_agrees", "top_distance")
        assert [means[measure] for measure in overlap] == pytest.approx(measured)
        assert diff.step.compared == sum(event.experiment == name for event in mirrored) > 0
    assert found["turned"].verdict == "failed" and "overlap is 0" in found["turned"].why
    assert msgspec.convert(found["same"].body, RankDiff).step.findings[0].outcome == "passed"


@pytest.fixture
def platforms(tmp_path: Path) -> Iterator[Platforms]:
    """Windows are short, so that one is over while the test waits."""
    quick = "window_s=2,lateness_s=1,min_lists=100"
    ports = {"gateway_port": 0, "grpc_port": 0, "mlflow_port": 0}
    with Platforms(PlatformSettings(home=tmp_path / "home", rank_diff=quick, **ports)) as platforms:
        yield platforms


def test_a_killed_monitor_counts_every_mirrored_query_once(platforms: Platforms) -> None:
    settings = platforms.settings
    packages = {version: a_package(scale=float(version)) for version in (1, 2)}
    for version, package in packages.items():
        write(package, settings.versions_folder / "codesearch" / str(version))
    plan = a_tested_plan(weight=0, digest=packages[2].digest, champion_digest=packages[1].digest)
    supervisor = platforms.start("monitor")
    state = platforms.ready(supervisor)

    with closing(SqlControl(settings.control_database)) as control, wiring.redis_client(settings) as client:
        control.change(plan, expected_revision=0, who="me", why="mirror", evidence={}, now_ms=NOW_MS)
        stream = RedisStream(client)

        def mirror(seed: int, queries: int = 300) -> list[MirrorEvent]:
            """As a gateway that answers now writes them."""
            events = mirrors(seed, queries, start_ms=time.time_ns() // 1_000_000)
            stream.append([join_events([encode_event(e) for e in events[i : i + 20]]) for i in range(0, queries, 20)])
            return events

        def counted(queries: int) -> RankDiff | None:
            """The newest rank-diff, once it counts so many."""
            found = control.evidence("codesearch")
            diff = msgspec.convert(found[-1].body, RankDiff) if found else None
            return diff if diff and diff.step.mirrored >= queries else None

        mirror(1)
        until(lambda: counted(300), "the first window is judged")
        os.kill(pid_of(state, "monitor"), signal.SIGKILL)
        again = mirror(2)[:100]
        stream.append([join_events([encode_event(e) for e in again])])  # a gateway that was killed, too, repeats some
        until(lambda: counted(600), "the second window is judged, by the monitor that took over")
        mirror(3)
        last = until(lambda: counted(900), "the third window is judged")

        assert (last.step.mirrored, last.window.mirrored) == (900, 300)
        assert all(estimate.mean is not None for estimate in last.step.estimates)

        shown = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "rollout", "diff", "codesearch"],
            env=os.environ | settings.to_environment() | {"COLUMNS": "160"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"codesearch@2 in the shadow of @1, test, revision 1: {last.verdict}" in shown.stdout
    assert last.examples[0].ranking_id in shown.stdout
