"""Small real things for tests: a view, an event, a package that really runs."""

import io
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from registry import run_moves
from registry.artefacts import strip_sample_inputs
from registry.contracts.counters import ArmCounters
from registry.contracts.drift import ShiftAlarm, ShiftRecord
from registry.contracts.events import SCHEMA, Click, Exposure, MirrorEvent, RankingEvent
from registry.contracts.features import Column, FeatureView
from registry.contracts.glimpses import Glimpse
from registry.contracts.manifest import JUDGED_NDCG, Lineage, ModelManifest, ModelPackage, TensorSpec
from registry.contracts.profile import ReferenceProfile, describe
from registry.contracts.replicas import ReplicaRecord
from registry.contracts.rollouts import Evidence, Need, Rollout, RolloutSpec, Step, Verdict
from registry.contracts.runs import Run, RunKind, Trigger
from registry.contracts.traffic import Arm, Experiment, Kind, Layer, TrafficPlan
from registry.store import StoredVersion

if TYPE_CHECKING:
    import torch

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z


def a_view(name: str = "functions") -> FeatureView:
    """Three columns, one of each source, in the order row, candidate, query."""
    return FeatureView(
        name=name,
        entity="function",
        columns=(
            Column("length", "row", "float32", default=1.0),
            Column("match", "candidate", default=0.5),
            Column("query_words", "query"),
        ),
    )


def a_profile(view: FeatureView | None = None, seed: int = 0) -> ReferenceProfile:
    """200 values a column, 20 lists."""
    view = view or a_view()
    values = np.random.default_rng(seed).normal(size=(200, len(view.columns)))
    return ReferenceProfile(
        fingerprint=view.fingerprint,
        population="200 made-up rows",
        lists=20,
        features=tuple(describe(column.name, values[:, i]) for i, column in enumerate(view.columns)),
        scores=describe("scores", values[:, 0]),
        margin=describe("margin", np.abs(values[:20, 0])),
        entropy=describe("entropy", np.abs(values[:20, 1]) / 10),
    )


def a_manifest(view: FeatureView | None = None, **changes: Any) -> ModelManifest:
    """Of a pointwise model over the view; any field can be changed."""
    view = view or a_view()
    fields: dict[str, Any] = {
        "model": "codesearch",
        "inputs": (TensorSpec("features", "FP32", (-1, len(view.columns))),),
        "outputs": (TensorSpec("scores", "FP32", (-1,)),),
        "view": view.to_json(),
        "fingerprint": view.fingerprint,
        "metric": JUDGED_NDCG,
        "metrics": {"ndcg@10": 0.5},
        "lineage": Lineage(dataset="made-up", dataset_digest="0" * 64),
        "created_ms": NOW_MS,
    }
    return ModelManifest(**(fields | changes))


@cache
def a_program(scale: float = 1.0, listwise: bool = False, columns: int = 3) -> bytes:
    """An exported program: the score is `scale` times the sum of a row.

    listwise: takes `query_index` too and subtracts it from the score.
    """
    import torch

    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = torch.nn.Parameter(torch.full((columns,), scale))

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features @ self.weights

    class ListwiseSum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = Sum()

        def forward(self, features: torch.Tensor, query_index: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.sum(features)
            return scores - query_index

    inputs = {"features": torch.zeros(4, columns), "query_index": torch.zeros(4, dtype=torch.int64)}
    if not listwise:
        del inputs["query_index"]
    return exported_program(ListwiseSum() if listwise else Sum(), inputs)


def exported_program(model: "torch.nn.Module", inputs: "dict[str, torch.Tensor]") -> bytes:
    """The model exported with dynamic rows, as our exporter does it."""
    import torch

    rows = torch.export.Dim("rows", min=1)
    exported = torch.export.export(
        model.eval(), tuple(inputs.values()), dynamic_shapes={name: {0: rows} for name in inputs}
    )
    archive = io.BytesIO()
    torch.export.save(exported, archive)
    return strip_sample_inputs(archive.getvalue())


def a_package(
    scale: float = 1.0, view: FeatureView | None = None, listwise: bool = False, **changes: Any
) -> ModelPackage:
    """A version that can be served: `a_program` over the view; changes are the manifest's."""
    view = view or a_view()
    inputs = [TensorSpec("features", "FP32", (-1, len(view.columns)))]
    if listwise:
        inputs.append(TensorSpec("query_index", "INT64", (-1,)))
    manifest = a_manifest(view, **({"inputs": tuple(inputs)} | changes))
    return ModelPackage.of(a_program(scale, listwise, len(view.columns)), manifest, a_profile(view))


def a_plan(model: str = "codesearch", revision: int = 1, champion: int = 1, **changes: Any) -> TrafficPlan:
    """A champion alone, unless changed."""
    fields: dict[str, Any] = {"champion_digest": f"{champion:064x}"}
    return TrafficPlan(model, revision, champion, **(fields | changes))


def a_tested_plan(
    model: str = "codesearch",
    version: int = 2,
    weight: int = 100,
    salt: str = "s",
    digest: str | None = None,
    kind: Kind = "ab",
    **changes: Any,
) -> TrafficPlan:
    """A champion and one experiment, `test`."""
    experiment = Experiment("test", version, digest or f"{version:064x}", weight, kind=kind)
    return a_plan(model, layers=(Layer("rollout", salt, (experiment,)),), **changes)


def an_arm(arm: Arm = "champion", experiment: str | None = None, **changes: Any) -> ArmCounters:
    """Counters of an arm of experiment `test` (the champion's: of none) under revision 1; zeros unless changed."""
    name = ("" if arm == "champion" else "test") if experiment is None else experiment
    fields: dict[str, Any] = {"model": "codesearch", "plan_revision": 1}
    return ArmCounters(**(fields | {"experiment": name, "arm": arm} | changes))


def a_stored(version: int = 2, model: str = "codesearch") -> StoredVersion:
    """What a store would say of the version."""
    return StoredVersion(model, version, f"{version:064x}", a_manifest(model=model), NOW_MS)


def a_spec(**changes: Any) -> RolloutSpec:
    """Gate, mirror, A/B at 10 % for a minute and 100 answers, 50 %; a day's holdback of 1 %."""
    fields: dict[str, Any] = {
        "steps": (
            Step("offline-gate", "gate", needs=(Need("offline_gate", "ever", 86400.0),)),
            Step("mirror", "mirror", mirror_share=100, min_s=10.0, needs=(Need("rank_diff"),)),
            Step("ab-10", "ab", 100, min_s=60.0, min_answers=100),
            Step("ramp-50", "ab", 500, min_s=60.0, min_answers=100),
        ),
        "holdback_weight": 10,
        "holdback_s": 86400.0,
    }
    return RolloutSpec(**(fields | changes))


def some_evidence(rollout: Rollout, kind: str, verdict: Verdict = "passed", **changes: Any) -> Evidence:
    """Of the rollout's two versions, made the moment it began, under the plan of its step."""
    fields: dict[str, Any] = {
        "model": rollout.model,
        "champion": rollout.champion,
        "champion_digest": rollout.champion_digest,
        "challenger": rollout.challenger,
        "challenger_digest": rollout.challenger_digest,
        "made_ms": rollout.entered_ms,
        "since_ms": rollout.entered_ms,
        "until_ms": rollout.entered_ms,
        "plan_revision": rollout.plan_revision,
        "experiment": rollout.experiment,
        "body": {"sample": 100},
    }
    return Evidence(kind=kind, verdict=verdict, **(fields | changes))


def a_replica_record(address: str = "unix:/run/worker-0.sock", **changes: Any) -> ReplicaRecord:
    """A worker on the CPU, unless changed."""
    fields: dict[str, Any] = {
        "replica": "worker-0",
        "device": "cpu",
        "pid": 10,
        "started_ms": NOW_MS,
        "capacity": 4096,
    }
    return ReplicaRecord(address, **(fields | changes))


def a_ranking(ranking_id: str = "r1", items: tuple[str, ...] = ("a", "b"), **changes: Any) -> RankingEvent:
    """An answer that showed these items, of three columns each, with falling scores."""
    shown = len(items)
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "ranking_id": ranking_id,
        "answered_ms": NOW_MS,
        "model": "codesearch",
        "version": 1,
        "arm": "champion",
        "plan_revision": 1,
        "unit": "u1",
        "query_id": "q1",
        "candidates": shown,
        "items": items,
        "scores": np.arange(shown, 0, -1).astype("<f4").tobytes(),
        "propensities": np.ones(shown, dtype="<f4").tobytes(),
        "fingerprint": a_view().fingerprint,
        "features": np.zeros((shown, 3), dtype="<f4").tobytes(),
        "score_mean": 1.0,
        "score_std": 1.0,
        "margin": 1.0,
        "entropy": 0.5,
    }
    return RankingEvent(**(fields | changes))


def a_click(event_id: str = "c1", ranking_id: str = "r1", item: str = "a", **changes: Any) -> Click:
    """A click a second after the ranking, received another second later."""
    fields: dict[str, Any] = {
        "model": "codesearch",
        "position": None,
        "clicked_ms": NOW_MS + 1000,
        "received_ms": NOW_MS + 2000,
    }
    return Click(SCHEMA, event_id, ranking_id, item=item, **(fields | changes))


def an_exposure(event_id: str = "x1", ranking_id: str = "r1", item: str = "a", **changes: Any) -> Exposure:
    """An item seen half a second after the ranking."""
    fields: dict[str, Any] = {
        "model": "codesearch",
        "position": None,
        "seen_ms": NOW_MS + 500,
        "received_ms": NOW_MS + 2000,
    }
    return Exposure(SCHEMA, event_id, ranking_id, item=item, **(fields | changes))


def a_mirror(event_id: str = "m1", ranking_id: str = "r1", **changes: Any) -> MirrorEvent:
    """The champion's two items and the same two the other way round by version 2."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "model": "codesearch",
        "mirrored_ms": NOW_MS + 20,
        "plan_revision": 1,
        "experiment": "test",
        "champion": 1,
        "version": 2,
        "candidates": 2,
        "items": ("a", "b"),
        "scores": np.array([2.0, 1.0], dtype="<f4").tobytes(),
        "mirror_items": ("b", "a"),
        "mirror_scores": np.array([0.5, 0.25], dtype="<f4").tobytes(),
        "latency_ms": 4.0,
        "mirror_latency_ms": 5.0,
    }
    return MirrorEvent(event_id=event_id, ranking_id=ranking_id, **(fields | changes))


def a_glimpse(ranking_id: str = "r1", **changes: Any) -> Glimpse:
    """Of the champion's answer with two items."""
    fields: dict[str, Any] = {
        "answered_ms": NOW_MS,
        "model": "codesearch",
        "version": 1,
        "arm": "champion",
        "experiment": "",
        "plan_revision": 1,
        "candidates": 20,
        "shown": 2,
        "items": ("a", "b"),
        "scores": (2.0, 1.0),
        "degraded": (),
        "stages_ms": {"queue": 0.1, "features": 1.0, "device": 0.8, "hop": 0.6, "total": 2.5},
    }
    return Glimpse(ranking_id=ranking_id, **(fields | changes))


def a_shift_alarm(quantity: str = "length", **changes: Any) -> ShiftAlarm:
    """Raised today, begun the day before."""
    fields: dict[str, Any] = {
        "kind": "mean",
        "against": "anchor",
        "effect": 0.2,
        "cusum": 11.0,
        "threshold": 9.0,
        "importance": 1.0,
        "onset_ms": NOW_MS - 86_400_000,
        "open_since_ms": NOW_MS + 86_400_000,
    }
    return ShiftAlarm(quantity, **(fields | changes))


def a_shift_record(model: str = "codesearch", **changes: Any) -> ShiftRecord:
    """Of the champion's day that began at NOW_MS, quiet."""
    fields: dict[str, Any] = {
        "version": 1,
        "arm": "champion",
        "family": "features",
        "verdict": "passed",
        "why": "",
        "made_ms": NOW_MS + 86_400_000,
        "since_ms": NOW_MS,
        "until_ms": NOW_MS + 86_400_000,
        "days": 29,
        "lists": 5000,
    }
    return ShiftRecord(model, **(fields | changes))


def a_run(
    model: str = "codesearch",
    kind: RunKind = "retrain",
    until_ms: int = NOW_MS,
    days: int = 14,
    steps: tuple[str, ...] = ("collect", "train"),
    now_ms: int = NOW_MS,
    trigger: Trigger = "schedule",
) -> Run:
    """A run of the window that ends then, queued."""
    span = (until_ms - days * 86_400_000, until_ms)
    return run_moves.ask(model, kind, trigger, *span, steps, who="schedule", why="its window is over", now_ms=now_ms)
