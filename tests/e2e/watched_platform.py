"""A platform on which everything happens that can be brought about on one machine without a GPU, for whoever watches.

Good and bad queries over HTTP and gRPC, clicks, a challenger that fails and is rolled back, one that is mirrored and
then tested, a version that nobody can load, rows that are missing, stale or of another layout.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from deploy import wiring
from deploy.features.store import feature_client
from pipelines.archive.files import Archive
from pipelines.feedback.click_ndcg import WINDOW_MS
from pipelines.tasks import PipelineWiring, make_celery
from registry.artefacts import write
from registry.contracts.features import Column, FeatureView
from registry.contracts.gates import GateTerms
from registry.contracts.manifest import ModelPackage
from registry.contracts.rollouts import GuardrailLimits, Need, Rollout, RolloutSpec, Step
from registry.contracts.traffic import TrafficPlan
from registry.rollout_moves import start
from registry.store import StoredVersion
from registry.traffic_control import SqlControl
from serving.features.materialiser import write_rows
from serving.gateway.protos import ranking_pb2 as pb
from tests.builders import a_package
from tests.e2e.platforms_under_fire import Platform, until

MODEL = "watched"
ITEMS = [f"item-{i}" for i in range(120)]
STALE, REFUSED, UNKNOWN = slice(0, 10), slice(10, 20), [f"new-{i}" for i in range(5)]
RANK_DIFF = "min_lists=20,window_s=1,lateness_s=0,max_p99_ratio=1000,max_error_share=0.3"
"""Few lists prove that under 30 % fail, hundreds that under 1 % do; a busy machine is slow to either."""
DAYS = "window_s=2,lateness_s=0,day_s=4,min_lists=20,anchor_days=14"
GATES = "period_s=0.5,settle_s=2"
GATE = GateTerms(looks=3, look_s=2.5, clicks_within_s=1.0, min_units=30, history_s=0.0)


def a_fresh_view(columns: int = 1) -> FeatureView:
    """Values of its first column are stale after an hour; with more columns it is another layout of the same view."""
    rows = [Column("length", "row", default=1.0, freshness_s=3600)]
    rows += [Column(f"more-{i}", "row") for i in range(columns - 1)]
    return FeatureView("watched", "function", (*rows, Column("match", "candidate", default=0.5)))


@dataclass
class Watched:
    """The platform and what is sent to it, on a thread, until told to stop."""

    platform: Platform
    control: SqlControl
    answers: int = 0
    by_version: dict[int, int] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def rows(self) -> None:
        """Into Redis: fresh, stale, of another layout, some without the value."""
        client, now_ms = feature_client(self.platform.settings, wiring.REDIS_TIMEOUT_S), time.time_ns() // 1_000_000
        values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
        values[30:40] = np.nan
        for items, view, width, updated_ms in (
            (slice(0, None), a_fresh_view(), 1, now_ms),
            (STALE, a_fresh_view(), 1, now_ms - 2 * 3_600_000),
            (REFUSED, a_fresh_view(2), 2, now_ms),
        ):
            write_rows(
                client, view, ITEMS[items], np.repeat(values[items], width, axis=1), updated_ms, on_rows=lambda _: None
            )

    def version(self, number: int, scale: float) -> ModelPackage:
        """On this machine, as a worker would fetch it."""
        package = a_package(scale=scale, view=a_fresh_view())
        write(package, self.platform.settings.versions_folder / MODEL / str(number))
        return package

    def champion(self, package: ModelPackage) -> None:
        """Version 1 has all traffic, warm."""
        plan = TrafficPlan(MODEL, 1, champion=1, champion_digest=package.digest)
        told: dict[str, Any] = {"who": "test", "why": "new", "now_ms": _now_ms()}
        self.control.change(plan, expected_revision=0, evidence={}, **told)
        self.platform.wait_until_held(f"{MODEL}@1", 1)
        until(lambda: MODEL in self.platform.status()["plans"], "the gateway to follow the plan")

    def rollout(self, version: int, digest: str, *steps: Step, layer: str = "rollout") -> Rollout:
        """Decided, and left to the controller."""
        plan = self.control.plan(MODEL)
        assert plan is not None
        spec = RolloutSpec(steps, GuardrailLimits(p99_ms=10_000.0), holdback_weight=0)
        stored = StoredVersion(MODEL, version, digest, a_package(view=a_fresh_view()).manifest, 0)
        decision = start(plan, stored, spec, layer=layer, who="test", why="new", now_ms=_now_ms())
        self.control.decide(decision)
        return decision.moves[0].rollout

    def wait_for(self, rollout: Rollout, state: str = "running", step: int = 0) -> None:
        """Until the rollout is there."""
        until(
            lambda: (found := self.control.rollout(rollout.id)).state == state and found.step >= step,
            f"{rollout.id} to be {state} in step {step}",
        )

    def wait_for_answers(self, version: int, more: int) -> None:
        """Until the version gave so many more answers."""
        wanted = self.by_version.get(version, 0) + more
        until(lambda: self.by_version.get(version, 0) >= wanted, f"{more} more answers of version {version}")

    def measure_clicks(self) -> None:
        """Has the Celery worker make evidence of the clicks so far, as it does of closed windows."""
        settings = self.platform.settings
        broker = f"redis+socket://{settings.redis_socket}"
        app = make_celery(
            broker, broker, PipelineWiring(Archive(settings.archive_folder), settings.reports_folder, list)
        )
        now_ms = _now_ms() // WINDOW_MS * WINDOW_MS
        for since_ms in (now_ms - WINDOW_MS, now_ms):  # the story may have begun in the window before
            app.send_task("pipelines.measure_clicks", [since_ms]).get(timeout=120)

    def ask_control(self) -> None:
        """Looks at the plan: with the local key, and without one, which is refused."""
        url = f"{self.platform.settings.gateway_url}/v1/models/{MODEL}/plan"
        key = self.platform.settings.admin_key_file.read_text().strip()
        statuses = [
            httpx.get(url, headers=headers, timeout=30.0).status_code
            for headers in ({"authorization": f"Bearer {key}"}, {})
        ]
        assert statuses == [200, 401]

    def retrain(self) -> None:
        """Asks for a retraining, as a person would; drift may have asked for the same window before."""
        url = f"{self.platform.settings.gateway_url}/v1/models/{MODEL}/retrain"
        key = self.platform.settings.admin_key_file.read_text().strip()
        answer = httpx.post(url, json={"why": "test"}, headers={"authorization": f"Bearer {key}"}, timeout=30.0)
        assert answer.status_code in (202, 409), answer.text

    def traffic(self) -> None:
        """Until stopped, some dozen queries a second at most, of which each tenth is odd."""
        rng, place = np.random.default_rng(0), 0
        with httpx.Client(base_url=self.platform.settings.gateway_url, timeout=30.0) as client:
            while not self._stop.wait(0.02):
                place += 1
                self._one(client, rng, place)

    def _one(self, client: httpx.Client, rng: np.random.Generator, place: int) -> None:
        candidates = [ITEMS[i] for i in rng.choice(len(ITEMS), 20, replace=False)]
        if place % 10 == 0:
            candidates += UNKNOWN
        body: dict[str, Any] = {"candidates": candidates, "unit": f"u{place}", "top_k": 5, "deadline_ms": 20_000}
        if place % 7:  # else the answer is degraded
            body["features"] = {"match": rng.random(len(candidates)).tolist()}
        answer = client.post(f"/v1/models/{MODEL}/rank", json=body)
        if answer.status_code == 200:
            self.answers += 1
            ranking = answer.json()
            self.by_version[ranking["version"]] = self.by_version.get(ranking["version"], 0) + 1
            self._feedback(client, ranking, place)
        if place % 20 == 0:
            client.post(f"/v1/models/{MODEL}/rank", json={"candidates": []})  # refused
            client.post("/v1/prefetch", json={"model": MODEL, "items": [f"ahead-{place}"]})
            self._over_grpc(candidates)

    def _feedback(self, client: httpx.Client, ranking: dict[str, Any], place: int) -> None:
        first = ranking["items"][0]
        seen = {"ranking_id": ranking["ranking_id"], "item": first["id"], "position": 1}
        events = [{"event_id": f"x{place}", "type": "exposure", **seen}]
        if place % 3 == 0:
            events.append({"event_id": f"c{place}", "type": "click", **seen})
        client.post("/v1/feedback", json={"events": events})
        if place % 20 == 0:
            client.post("/v1/feedback", json={"events": [{"event_id": "e", "type": "click", "ranking_id": "nope"}]})

    def _over_grpc(self, candidates: list[str]) -> None:
        import grpc

        with grpc.insecure_channel(self.platform.settings.grpc_address) as channel:
            rank = channel.unary_unary(
                "/sluice.ranking.v1.Ranking/Rank", pb.RankRequest.SerializeToString, pb.RankResponse.FromString
            )
            rank(pb.RankRequest(model=MODEL, candidates=candidates, deadline_ms=20_000), timeout=30.0)


@contextmanager
def watched_platform(folder: Path) -> Iterator[Watched]:
    """With everything started, and traffic that goes on."""
    quick = {"rank_diff": RANK_DIFF, "drift": DAYS, "drift_segments": f"{MODEL}:match<0.5", "gates": GATES}
    platform = Platform.start(folder / "home", with_celery=True, with_monitor=True, **quick)
    try:
        watched = Watched(platform, wiring.traffic_control(platform.settings))
        watched.rows()
        watched.champion(watched.version(1, scale=1.0))
        sender = threading.Thread(target=watched.traffic)
        sender.start()
        try:
            yield watched
        finally:
            watched._stop.set()
            sender.join()
    finally:
        platform.stop()


def live_through_everything(watched: Watched) -> None:
    """The story, in order; returns with a rollout in its A/B step and traffic going on."""
    watched.wait_for_answers(1, 50)
    watched.ask_control()
    bad = watched.version(3, scale=1e38)  # sound on the warm-up's zeros, beyond float32 on what is asked
    half = Step("ab-50", "ab", 500, min_s=3600.0, min_answers=10)
    failing = watched.rollout(3, bad.digest, half, layer="failing")
    watched.wait_for(failing, "rolled_back")
    good = watched.version(2, scale=2.0)  # the same order, so that the mirror finds nothing
    mirrored = Step("mirror", "mirror", mirror_share=500, min_s=0.5, needs=(Need("rank_diff"),))
    half = Step("ab-50", "ab", 500, min_s=3600.0, min_answers=10, needs=(Need("online_gate"),), gate=GATE)
    tested = watched.rollout(2, good.digest, mirrored, half)
    watched.wait_for(tested, step=1)
    watched.wait_for_answers(2, 5)  # so that the gateway follows that plan: the next it cannot follow
    watched.rollout(9, "9" * 64, Step("ab-10", "ab", 100, min_s=3600.0), layer="other")  # nobody can load it
    watched.wait_for_answers(2, 100)
    until(lambda: len(_archived(watched)) > 100, "rankings to be archived")
    watched.measure_clicks()
    watched.retrain()
    log = watched.platform.settings.log_file
    until(lambda: f"could not load {MODEL}@9" in log.read_text(), "the worker to refuse the version")


def _archived(watched: Watched) -> list[str]:
    now_ms = _now_ms()
    table = Archive(watched.platform.settings.archive_folder).rankings(MODEL, now_ms - 3_600_000, now_ms + 60_000)
    return [str(found) for found in table.column("ranking_id").to_pylist()]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
