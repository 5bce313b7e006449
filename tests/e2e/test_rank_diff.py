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
from deploy.rank_evidence import RankEvidence
from deploy.settings import PlatformSettings
from drift.mirror_monitor import GROUP, MirrorMonitor
from drift.rank_diff import RankDiff
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


def test_a_minute_in_which_nothing_is_mirrored_is_no_evidence(tmp_path: Path) -> None:
    chain = Chain(tmp_path)
    chain.control.change(a_tested_plan(), expected_revision=0, who="me", why="", evidence={}, now_ms=NOW_MS)

    assert chain.watch() == []


@pytest.fixture
def platforms(tmp_path: Path) -> Iterator[Platforms]:
    with Platforms(PlatformSettings(home=tmp_path / "home", gateway_port=0, grpc_port=0, mlflow_port=0)) as platforms:
        yield platforms


def test_a_killed_monitor_counts_every_mirrored_query_once(platforms: Platforms) -> None:
    settings = platforms.settings
    packages = {version: a_package(scale=float(version)) for version in (1, 2)}
    for version, package in packages.items():
        write(package, settings.versions_folder / "codesearch" / str(version))
    plan = a_tested_plan(weight=0, digest=packages[2].digest, champion_digest=packages[1].digest)
    supervisor = platforms.start("monitor")
    state = platforms.ready(supervisor)
    last_minute_ms = (time.time_ns() // 1_000_000 // MINUTE_MS - 1) * MINUTE_MS
    minutes = [mirrors(seed, 300, start_ms=last_minute_ms - (2 - seed) * MINUTE_MS) for seed in (1, 2)]

    with closing(SqlControl(settings.control_database)) as control, wiring.redis_client(settings) as client:
        control.change(plan, expected_revision=0, who="me", why="mirror", evidence={}, now_ms=last_minute_ms)
        stream = RedisStream(client)

        def mirror(events: list[MirrorEvent]) -> None:
            stream.append([join_events([encode_event(e) for e in events[i : i + 20]]) for i in range(0, 300, 20)])

        def told(minutes: int) -> list[Evidence] | None:
            found = control.evidence("codesearch")
            return found if len(found) >= minutes else None

        mirror(minutes[0])
        until(lambda: told(1), "the first minute is judged")
        pid = pid_of(state, "monitor")
        os.kill(pid, signal.SIGKILL)
        mirror(minutes[1])
        mirror(minutes[0][:100])  # a gateway that was killed, too, writes some again
        evidence = until(lambda: told(2), "the second minute is judged")

        diffs = [msgspec.convert(one.body, RankDiff) for one in evidence]
        assert [(diff.window.mirrored, diff.step.mirrored) for diff in diffs] == [(300, 300), (300, 600)]
        assert all(estimate.mean is not None for estimate in diffs[1].step.estimates)
        group = next(group for group in client.xinfo_groups("sluice:events") if group["name"] == GROUP.encode())
        assert group["pending"] == 0

        shown = subprocess.run(
            [sys.executable, "-m", "deploy.cli", "rollout", "diff", "codesearch"],
            env=os.environ | settings.to_environment() | {"COLUMNS": "160"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"codesearch@2 in the shadow of @1, test, revision 1: {diffs[1].verdict}" in shown.stdout
    assert diffs[1].examples[0].ranking_id in shown.stdout
