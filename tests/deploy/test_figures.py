"""The console's routes: what the page draws, from real stores, over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drift.days.reports import DayReport, DayReports, QuantityDay
from pipelines.archive.files import Archive
from pipelines.gates.data import GateData
from pipelines.gates.judge import GateJudge
from pipelines.settings import GateSettings
from registry.contracts.counters import LATENCY_BUCKETS, STAGE_BUCKETS, STAGES, CounterSnapshot, StageCounters
from registry.contracts.drift import ShiftKind
from registry.contracts.gates import GateTerms
from registry.contracts.rollouts import Need, Rollout, RolloutSpec, Step
from registry.rollout_moves import start
from tests.builders import NOW_MS, a_glimpse, a_shift_alarm, a_shift_record, an_arm
from tests.deploy.control_desk import MODEL, VERSIONS, ControlBench, a_control_bench
from tests.pipelines.gate_traffic import Traffic

DAY_MS = 86_400_000
TERMS = GateTerms(looks=3, look_s=4.0, clicks_within_s=1.2, simulated=True, min_units=20, alpha=0.05, history_s=0.0)
IN_AB = Step("ab-50", "ab", 500, needs=(Need("online_gate"),), gate=TERMS)
MIRROR = Step("mirror", "mirror", mirror_share=100, needs=(Need("rank_diff"),))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlBench]:
    """Version 1 is champion, 2 was, 3 is on its way; days, traffic and glimpses are there."""
    with a_control_bench(tmp_path_factory.mktemp("control")) as bench:
        bench.promote(2)
        bench.promote(1)
        yield bench


def a_rollout(bench: ControlBench, *steps: Step, layer: str = "rollout") -> Rollout:
    stored = bench.store.get(MODEL, 3)
    spec = RolloutSpec(steps, holdback_weight=0)
    words: dict[str, Any] = {"who": "ann", "why": "new", "now_ms": NOW_MS}
    decision = start(bench.control.plan(MODEL), stored, spec, layer=layer, **words)
    bench.control.decide(decision)
    return decision.moves[0].rollout


def abort(bench: ControlBench, rollout: Rollout) -> None:
    assert bench.post(f"/rollouts/{rollout.id}/abort", {"why": "done"}).status_code == 200


def test_a_key_is_told_what_it_is_good_for(bench: ControlBench) -> None:
    whole = bench.request("GET", "/v1/me").json()
    viewer = bench.request("GET", "/v1/me", bench.key("viewer", (MODEL,))).json()
    elsewhere = bench.request("GET", "/v1/me", bench.key("operator", ("other",))).json()

    assert (whole["role"], [one["model"] for one in whole["models"]]) == ("admin", [MODEL])
    assert (viewer["role"], viewer["models"]) == ("viewer", whole["models"])
    assert whole["models"][0]["champion"] == 1
    assert (elsewhere["role"], elsewhere["models"]) == ("operator", [])


@pytest.mark.parametrize("path", ["/versions", "/traffic", "/drift/days", "/live"])
def test_figures_need_a_key_and_one_for_the_model(bench: ControlBench, path: str) -> None:
    assert bench.get(path, "").status_code == 401
    assert bench.get(path, bench.key("viewer", ("other",))).status_code == 403
    assert bench.get(path, bench.key("viewer", (MODEL,))).status_code == 200


@pytest.mark.parametrize("path", ["/versions", "/traffic", "/drift/days", "/live"])
def test_a_model_without_a_plan_has_no_figures(bench: ControlBench, path: str) -> None:
    answer = bench.request("GET", f"/v1/models/nobody{path}")

    assert answer.status_code == 404
    assert "sluice promote nobody" in answer.json()["error"]


def test_versions_have_their_place_share_and_history(bench: ControlBench) -> None:
    rollout = a_rollout(bench, MIRROR, IN_AB)
    try:
        found = {one["version"]: one for one in bench.get("/versions").json()["versions"]}
    finally:
        abort(bench, rollout)
    after = {one["version"]: one for one in bench.get("/versions").json()["versions"]}

    assert {version: one["place"] for version, one in found.items()} == {
        1: "champion",
        2: "former",
        3: "mirror",
        4: "registered",
    }
    assert (found[1]["share"], found[3]["share"], found[3]["mirror_share"]) == (1000, 0, 100)
    assert found[1]["promoted_ms"] > found[2]["promoted_ms"] > 0
    assert found[4]["metrics"] == {"ndcg@10": 0.5}
    assert after[3]["place"] == "registered"


def test_versions_are_told_without_the_registry_as_far_as_the_tables_know(bench: ControlBench) -> None:
    bench.away.add("store")
    try:
        answer = bench.get("/versions").json()
    finally:
        bench.away.clear()

    assert "MLflow" in answer["registry"]
    assert {one["version"]: one["place"] for one in answer["versions"]} == {1: "champion", 2: "former"}
    assert all(one["metrics"] is None for one in answer["versions"])
    assert VERSIONS == 4


def test_traffic_is_by_arm_and_stage_over_the_last_minutes(bench: ControlBench) -> None:
    now_ms = int(bench.get("/live").json()["now_ms"]) // 5000 * 5000
    latency = tuple(90 if i == 20 else 10 if i == 40 else 0 for i in range(LATENCY_BUCKETS))
    stage = tuple(100 if i == 8 else 0 for i in range(STAGE_BUCKETS))
    before = CounterSnapshot("gateway-0:1:1", now_ms, (an_arm(),))
    after = CounterSnapshot(
        "gateway-0:1:1",
        now_ms,
        (an_arm(answered=100, failed=5, degraded=2, latency=latency),),
        (StageCounters(MODEL, (stage,) * len(STAGES)),),
    )
    bench.sources.meter.take({before.process: before}, now_ms - 5000)
    bench.sources.meter.take({after.process: after}, now_ms)

    found = bench.get("/traffic?minutes=1").json()

    (arm,) = found["arms"]
    assert (arm["arm"], arm["version"], arm["answered"], arm["failed"], arm["degraded"]) == ("champion", 1, 100, 5, 2)
    assert 0.25 * 2 ** (19 / 4) <= arm["p50_ms"] <= 0.25 * 2 ** (20 / 4) < arm["p99_ms"]
    assert [rate for rate in arm["per_s"] if rate is not None] == [20.0]
    assert [one["stage"] for one in found["stages"]] == list(STAGES)
    assert found["answered"] == 100
    assert all(0.01 * 2 ** (7 / 4) <= one["p99_ms"] <= 0.01 * 2 ** (8 / 4) for one in found["stages"])
    assert (found["watched_s"], len(found["steps_ms"])) == (5.0, 12)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/traffic?minutes=x", "minutes='x': expected a whole number"),
        ("/live?limit=0", "limit='0': expected a whole number"),
        ("/drift/days?arm=../..", "expected champion"),
        ("/drift/days?family=odd", "expected features or confidence"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words(bench: ControlBench, path: str, words: str) -> None:
    answer = bench.get(path)

    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_live_answers_come_newest_first_and_bounded(bench: ControlBench) -> None:
    bench.sources.glimpses.publish([a_glimpse(f"r{i}") for i in range(5)] + [a_glimpse("else", model="other")])

    found = bench.get("/live?limit=3").json()["glimpses"]

    assert [one["ranking_id"] for one in found] == ["r4", "r3", "r2"]


def a_day(number: int, shifts: dict[tuple[str, ShiftKind], float | None], **changes: Any) -> DayReport:
    record = a_shift_record(since_ms=NOW_MS + number * DAY_MS, until_ms=NOW_MS + (number + 1) * DAY_MS, **changes)
    quantities = tuple(QuantityDay(*key, shift, abs(shift or 0.0)) for key, shift in shifts.items())
    return DayReport(record, quantities)


def test_drift_is_a_row_a_quantity_and_a_column_a_day_the_weightiest_first(bench: ControlBench) -> None:
    assert bench.get("/drift/days").json()["days"] == []
    reports = bench.sources.days
    assert isinstance(reports, DayReports)
    reports.write(a_day(0, {("length", "mean"): 0.15, ("match", "mean"): -0.3}))
    alarm = a_shift_alarm("match")
    last: dict[tuple[str, ShiftKind], float | None] = {("length", "mean"): None, ("late", "missing_share"): 0.2}
    reports.write(a_day(1, last, verdict="failed", alarms=(alarm,)))
    reports.write(a_day(0, {("length", "mean"): 0.1}, arm="challenger", version=3))

    found = bench.get("/drift/days").json()

    assert [(row["quantity"], row["kind"], row["shifts"]) for row in found["rows"]] == [
        ("late", "missing_share", [None, 0.2]),
        ("match", "mean", [-0.3, None]),
        ("length", "mean", [0.15, None]),
    ]
    assert [row["floor"] for row in found["rows"]] == [0.05, 0.1, 0.1]
    assert [day["verdict"] for day in found["days"]] == ["passed", "failed"]
    assert [one["quantity"] for one in found["alarms"]] == ["match"]
    assert found["arms"] == ["champion", "challenger-3"]
    assert len(bench.get("/drift/days?limit=1").json()["rows"]) == 1
    assert bench.get("/drift/days?limit=1").json()["total"] == 3
    assert bench.get("/drift/days?arm=challenger-3").json()["rows"][0]["shifts"] == [0.1]
    assert len(bench.get("/drift/days?days=1").json()["days"]) == 1


def test_a_day_that_cannot_be_read_is_said(bench: ControlBench) -> None:
    reports = bench.sources.days
    assert isinstance(reports, DayReports)
    broken = reports.folder / MODEL / "days" / "challenger-9"
    broken.mkdir(parents=True)
    (broken / "features-20260101T000000000Z.json").write_text("{")

    answer = bench.get("/drift/days?arm=challenger-9")

    assert answer.status_code == 503
    assert "cannot be read" in answer.json()["error"]


def test_looks_are_what_the_judge_kept_with_the_bounds_that_were_planned(bench: ControlBench, tmp_path: Path) -> None:
    rollout = a_rollout(bench, IN_AB)
    traffic = Traffic(Archive(tmp_path / "archive"), {1: 1.0, 3: 0.8}, units=80)
    judge = GateJudge(bench.control, GateData(traffic.archive, tmp_path / "gates"), settings=GateSettings(settle_s=0.0))
    plan = bench.control.plan(MODEL)
    assert plan is not None
    for look in range(2):
        since_ms = NOW_MS + look * 4000
        traffic.run(plan, 150, since_ms + 1, since_ms + 4000)
        judge.turn(since_ms + 4000 + 1200)
    kept = bench.control.evidence(MODEL, challenger_digest=rollout.challenger_digest, kind="online_gate")
    try:
        (gate,) = bench.get(f"/rollouts/{rollout.id}/looks").json()["gates"]
    finally:
        abort(bench, rollout)

    assert len(kept) >= 2
    assert [point["evidence"] for point in gate["points"]] == [one.id for one in kept]
    last, figures = gate["points"][-1], kept[-1].body["verdict"]
    assert [last[name] for name in ("estimate", "low", "high", "z", "boundary")] == [
        figures[name] for name in ("estimate", "low", "high", "z", "boundary")
    ]
    assert (gate["step"], gate["kind"], gate["passes_over"], gate["fails_under"]) == ("ab-50", "ab", 0.0, 0.0)
    assert gate["looks_ms"] == [NOW_MS + 5200, NOW_MS + 9200, NOW_MS + 13_200]
    assert bench.request("GET", f"/v1/models/other/rollouts/{rollout.id}/looks").status_code == 404
