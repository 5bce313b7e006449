"""A platform about which the console has something to say, made by the real parts: five weeks of closed days, a rollout
whose online gate has been looked at for a week, and users who go on asking.

What took weeks is written as those who write it would have (events into the stream, lists and clicks into the archive),
with the times it would have had; what happens now goes through the gateway.
"""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deploy import wiring
from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.features.store import feature_client
from drift.days.reports import DayReports
from drift.days.watch import DayWatches
from drift.monitor import Monitor
from drift.settings import parse_monitor
from pipelines.archive.files import Archive
from pipelines.gates.data import GateData
from pipelines.gates.judge import GateJudge
from pipelines.settings import GateSettings
from registry.artefacts import write
from registry.board import RedisBoard
from registry.contracts.events import SCHEMA, RankingEvent, encode_event, join_events
from registry.contracts.features import Column, FeatureView
from registry.contracts.gates import GateTerms
from registry.contracts.manifest import ModelPackage
from registry.contracts.profile import ReferenceProfile, confidences, describe
from registry.contracts.rollouts import Need, Rollout, RolloutSpec, Step
from registry.contracts.traffic import TrafficPlan
from registry.drift_board import RedisDriftBoard
from registry.rollout_moves import advance, start
from registry.store import StoredVersion
from registry.stream import MemoryStream
from registry.traffic_control import SqlControl
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.e2e.platforms_under_fire import MODEL, Platform, until
from tests.pipelines.gate_traffic import Traffic

DAY_MS = 86_400_000
QUIET = "quiet"
"""A model of which nothing is known but that it has a champion."""
HOSTILE = "<img src=x onerror=\"document.title='hit'\"><script>document.title='hit'</script>"
COLUMNS = (
    *("title_match", "body_match", "name_match", "click_rate", "age_days", "popularity", "length", "depth"),
    *("callers", "examples", "typed_share", "query_words", "stars", "updates", "docstring_share", "complexity"),
)
VIEW = FeatureView("functions", "function", tuple(Column(name, "row", default=0.0) for name in COLUMNS))
CANDIDATES, SHOWN = 12, 8
MODULES = ("pathlib.Path", "json", "datetime.datetime", "collections", "itertools", "asyncio", "re", "urllib.parse")
WORDS = ("parse", "read_text", "open", "fromisoformat", "loads", "glob", "chain", "gather", "match", "urlsplit")
ITEMS = [f"{module}.{word}" for module in MODULES for word in WORDS]


@dataclass(frozen=True)
class Size:
    """days: closed; lists: of each. look_days: that the gate has been looked at; looks_a_day: how often;
    gate_lists: of each of those times. units: who ask now."""

    days: int = 35
    lists: int = 220
    look_days: float = 6.5
    looks_a_day: int = 6
    gate_lists: int = 700
    units: int = 400


SMALL = Size(days=18, lists=60, look_days=2.5, looks_a_day=3, gate_lists=200)


@dataclass
class World:
    """The platform, and what is asked of it until told to stop. key: of its admin."""

    platform: Platform
    control: SqlControl
    rollout: Rollout
    key: str
    asked: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Of the gateway."""
        return self.platform.settings.gateway_url

    @contextmanager
    def busy(self, every_s: float = 0.05, hostile: bool = False) -> Iterator[None]:
        """While users ask. hostile: there is a candidate that would like to be markup."""
        stop = threading.Event()
        thread = threading.Thread(target=self._ask, args=(stop, every_s, hostile))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _ask(self, stop: threading.Event, every_s: float, hostile: bool) -> None:
        coins = random.Random(1)
        with GatewayClient(self.url) as gateway:
            while not stop.wait(every_s * coins.uniform(0.4, 1.6)):
                candidates = coins.sample(ITEMS, coins.randrange(12, 60)) + ([HOSTILE] if hostile else [])
                if coins.random() < 0.03:
                    candidates.append("nobody.knows_it")
                body: dict[str, Any] = {"candidates": candidates, "top_k": 10, "deadline_ms": 20_000}
                try:
                    gateway.post(f"/v1/models/{MODEL}/rank", body | {"unit": f"user-{coins.randrange(400)}"})
                    self.asked += 1
                except SluiceError as error:
                    self.failed.append(str(error))


@contextmanager
def a_world(home: Path, size: Size = SMALL, **flags: Any) -> Iterator[World]:
    """Started, with its past; nobody asks yet."""
    now_ms = time.time_ns() // 1_000_000
    platform = Platform.start(home, **flags)
    try:
        packages = {version: _package(version, now_ms) for version in (1, 2, 3)}
        for version, package in packages.items():
            write(package, platform.settings.versions_folder / MODEL / str(version))
            if platform.settings.with_mlflow:
                assert wiring.model_store(platform.settings).register(MODEL, package) == version
        _rows(platform, now_ms)
        control = wiring.traffic_control(platform.settings)
        rollout = _past(platform, control, packages, size, now_ms)
        platform.wait_until_held(f"{MODEL}@1", 1)
        platform.wait_until_held(f"{MODEL}@2", 1)
        until(lambda: MODEL in platform.status().get("plans", ()), "the gateway to follow the plan")
        yield World(platform, control, rollout, platform.settings.admin_key_file.read_text().strip())
    finally:
        platform.stop()


def _package(version: int, now_ms: int) -> ModelPackage:
    figures = {"test_ndcg@10": 0.61 + 0.012 * version, "validation_ndcg@10": 0.6}
    created_ms = now_ms - {1: 42, 2: 8, 3: 1}[version] * DAY_MS
    package = a_package(scale=0.9 + version / 10, view=VIEW, metrics=figures, created_ms=created_ms)
    return ModelPackage.of(package.program, package.manifest, PROFILE)


def _rows(platform: Platform, now_ms: int) -> None:
    values = np.random.default_rng(5).normal(size=(len(ITEMS) + 1, len(COLUMNS))).astype(np.float32)
    values[-1] += 3.0  # the hostile one comes first in every list that it is in
    client = feature_client(platform.settings, wiring.REDIS_TIMEOUT_S)
    write_rows(client, VIEW, [*ITEMS, HOSTILE], values, updated_ms=now_ms, on_rows=lambda _: None)


def _past(
    platform: Platform, control: SqlControl, packages: dict[int, ModelPackage], size: Size, now_ms: int
) -> Rollout:
    plan = TrafficPlan(MODEL, 1, champion=1, champion_digest=packages[1].digest)
    began_ms = now_ms - 40 * DAY_MS
    control.change(plan, expected_revision=0, who="ann", why="first", evidence={}, now_ms=began_ms)
    quiet = TrafficPlan(QUIET, 1, champion=7, champion_digest="7" * 64)
    control.change(quiet, expected_revision=0, who="ann", why="first", evidence={}, now_ms=began_ms)
    _days(platform, size, now_ms)
    rollout = _gate(platform, control, packages[2], size, now_ms)
    newest = control.plan(MODEL)
    assert newest is not None
    RedisBoard(wiring.redis_client(platform.settings)).publish(newest)
    return rollout


def _days(platform: Platform, size: Size, now_ms: int) -> None:
    """Days that are over, through the monitor; in the end two columns drift, and one breaks."""
    begins_ms = (now_ms // DAY_MS - size.days) * DAY_MS
    stream = MemoryStream()
    for day in range(size.days):
        left = size.days - day
        moved = {"click_rate": 0.14 * max(0, 7 - left), "age_days": -0.11 * max(0, 5 - left)}
        moved |= {"updates": 0.06 * np.sin(day / 3), "stars": 0.05 * np.cos(day / 2)}
        events = _lists(day, size.lists, moved, begins_ms + day * DAY_MS, missing=0.3 if left in (2, 3) else 0.0)
        stream.append([join_events([encode_event(event) for event in events])])
    settings, reports = platform.settings, platform.settings.reports_folder / "drift"
    told = parse_monitor(f"window_s=86400,lateness_s=1,min_lists={size.lists // 2},anchor_days=14")
    with wiring.redis_client(settings) as client:
        kept_in = settings.home / "history.watches"
        watches = DayWatches(kept_in, RedisDriftBoard(client), told.shift, reports=DayReports(reports))
        reader = stream.reader("history", "history-0")
        kept = settings.home / "history.windows"
        monitor = Monitor(reader, lambda _model, _version: PROFILE, lambda _: None, told, kept, watches=watches)
        while monitor.step(0.0):
            pass
        monitor.step(0.0)


def _values(seed: int, lists: int) -> Any:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(lists, CANDIDATES, len(COLUMNS)))
    values += 0.4 * rng.normal(size=(lists, 1, len(COLUMNS)))
    return values.astype(np.float32)


def _lists(
    day: int, lists: int, moved: dict[str, float], start_ms: int, missing: float = 0.0
) -> Iterator[RankingEvent]:
    rng = np.random.default_rng(1000 + day)
    values = _values(2000 + day, lists)
    values += rng.normal(0, 0.03, size=len(COLUMNS)).astype(np.float32)
    for name, by in moved.items():
        values[:, :, COLUMNS.index(name)] += by
    scores = values.sum(axis=2)
    if missing:
        gone = rng.random(values.shape[:2]) < missing
        values[:, :, COLUMNS.index("examples")][gone] = np.nan
    order = np.argsort(-scores, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    shown = np.take_along_axis(values, order[:, :, None], axis=1)[:, :SHOWN]
    sure = confidences(scores, np.full(lists, CANDIDATES), PROFILE.scores.std)
    for i in range(lists):
        yield RankingEvent(
            schema=SCHEMA,
            ranking_id=f"{day:04x}{i:046x}",
            answered_ms=start_ms + i * (DAY_MS // lists),
            model=MODEL,
            version=1,
            arm="champion",
            plan_revision=1,
            unit=f"user-{i % 400}",
            query_id=f"q{i}",
            candidates=CANDIDATES,
            items=tuple(ITEMS[(i + k) % len(ITEMS)] for k in range(SHOWN)),
            scores=scores[i, :SHOWN].astype("<f4").tobytes(),
            propensities=np.ones(SHOWN, dtype="<f4").tobytes(),
            fingerprint=VIEW.fingerprint,
            features=shown[i].astype("<f4").tobytes(),
            score_mean=float(scores[i].mean()),
            score_std=float(scores[i].std()),
            margin=float(sure.margin[i]),
            entropy=float(sure.entropy[i]),
        )


def _profile() -> ReferenceProfile:
    values = _values(1, 1500)
    scores = -np.sort(-values.sum(axis=2), axis=1)
    sure = confidences(scores, np.full(len(scores), CANDIDATES), float(scores.std()))
    order = np.argsort(-values.sum(axis=2), axis=1)
    shown = np.take_along_axis(values, order[:, :, None], axis=1)[:, :SHOWN]
    return ReferenceProfile(
        fingerprint=VIEW.fingerprint,
        population="made-up lists",
        lists=len(values),
        features=tuple(describe(name, shown[:, :, i]) for i, name in enumerate(COLUMNS)),
        scores=describe("scores", scores),
        margin=describe("margin", sure.margin),
        entropy=describe("entropy", sure.entropy),
    )


PROFILE = _profile()
TERMS = GateTerms(looks=14, effect=0.06, least=0.01, simulated=True, min_units=30, history_s=0.0)
SPEC = RolloutSpec(
    (
        Step("offline-gate", "gate", needs=(Need("offline_gate", "ever", 30 * 86400.0),)),
        Step("mirror", "mirror", mirror_share=100, min_s=600.0, needs=(Need("rank_diff"),)),
        Step("ab-10", "ab", 100, min_s=3600.0, min_answers=1000, needs=(Need("online_gate"),), gate=TERMS),
        Step("ramp-25", "ab", 250, min_s=3600.0, min_answers=1000),
        Step("ramp-50", "ab", 500, min_s=3600.0, min_answers=1000),
    )
)


def _gate(platform: Platform, control: SqlControl, package: ModelPackage, size: Size, now_ms: int) -> Rollout:
    """A rollout that is in its A/B, judged by the real judge on lists and clicks of its days."""
    entered_ms = now_ms - round(size.look_days * DAY_MS)
    stored = StoredVersion(MODEL, 2, package.digest, package.manifest, entered_ms)
    words: dict[str, Any] = {"who": "ann", "why": "trained on the newest fortnight"}
    plan = control.plan(MODEL)
    decision = start(plan, stored, SPEC, layer="rollout", **words, now_ms=entered_ms - 2_000_000)
    control.decide(decision)
    rollout = decision.moves[0].rollout
    while rollout.current_step.gate is None:
        plan = control.plan(MODEL)
        assert plan is not None
        at_ms = entered_ms if SPEC.steps[rollout.step + 1].gate else entered_ms - 1_000_000
        decision = advance(rollout, plan, (), who="controller", why="all that it needs has passed", now_ms=at_ms)
        control.decide(decision)
        rollout = decision.moves[0].rollout
    plan = control.plan(MODEL)
    assert plan is not None
    beside = platform.settings.home / "gate-history"  # not the platform's archive, which has today's lists
    traffic = Traffic(Archive(beside / "archive"), {1: 1.6, 2: 1.35}, units=size.units)
    judge = GateJudge(control, GateData(traffic.archive, beside / "gates"), settings=GateSettings(settle_s=0.0))
    every_ms = DAY_MS // size.looks_a_day
    for turn in range(int(size.look_days * size.looks_a_day)):
        since_ms = entered_ms + turn * every_ms
        traffic.run(plan, size.gate_lists, since_ms + 1, since_ms + every_ms)
        judge.turn(since_ms + every_ms)
    return rollout
