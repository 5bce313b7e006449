"""A hundred changes in a row at steady traffic, kill -9 of everything thrown in: nobody notices, nothing is lost.

Which changes, which kills and when come from `SLUICE_TEST_SEED`, which is in the tests' names.
"""

import os
import random
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from deploy import wiring
from deploy.features.store import feature_client
from registry.board import RedisBoard
from registry.contracts.traffic import TrafficPlan
from serving.features.materialiser import write_rows
from tests.builders import a_package
from tests.e2e.platforms_under_fire import ITEMS, MODEL, Platform, until
from tests.e2e.swaps_under_fire import (
    CHANGES,
    CLIENTS,
    TARGETS,
    Change,
    Clients,
    Fire,
    Kill,
    Operator,
    Witness,
)
from tests.postgres import running_postgres

SEED = int(os.environ.get("SLUICE_TEST_SEED", "1"))
SCALES = {1: 1.0, 2: -1.0, 3: 2.0}
APPLIED_WITHIN_S = 1.0  # what we promise from the answer to a change to the last query that knows nothing of it
ZERO_WITHIN_S = 5.0  # the same, where traffic is taken back, whatever was killed meanwhile

# mlflow's own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


@dataclass
class Record:
    """All that happened, and how the platform was at the end."""

    clients: Clients
    kills: list[Kill]
    changes: list[Change]
    seen: list[tuple[int, int]]
    history: list[dict[str, Any]]
    board: TrafficPlan
    aliases: dict[str, int]
    archived: set[str]

    @cached_property
    def plans(self) -> dict[int, TrafficPlan]:
        """By revision."""
        return {line["plan_revision"]: msgspec.convert(line["plan"], TrafficPlan) for line in self.history}

    @cached_property
    def acknowledged(self) -> list[Change]:
        """Those whose operator was told that they are made."""
        return [change for change in self.changes if change.acknowledged]

    def late_s(self, change: Change) -> float:
        """From the answer to the change to the last query that was sent, and answered by a plan before; 0 if none."""
        behind = (one.sent_s for one in self.clients.served if one.revision < change.revision)
        return max(0.0, max(behind, default=0.0) - change.decided_s)

    def disturbed(self, change: Change) -> bool:
        """Whether the board was away at the time, or a worker, with which a version may be loaded nowhere.

        A gateway is no excuse: one that comes back knows the newest plan before its first answer.
        """
        return any(
            kill.at_s <= change.decided_s + APPLIED_WITHIN_S and change.asked_s <= kill.back_s + APPLIED_WITHIN_S
            for kill in self.kills
            if kill.target in ("redis", "worker-0", "worker-1")
        )


@pytest.fixture(scope="module", params=[SEED], ids=lambda seed: f"SLUICE_TEST_SEED={seed}")
def record(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Record]:
    with running_postgres() as database:
        home = tmp_path_factory.mktemp("swaps") / "home"
        told = {"gateways": 2, "workers": 2, "with_grpc": False, "with_mlflow": True}
        platform = Platform.start(home, control_url=database.fresh_database(), **told)
        try:
            _register(platform)
            # coins of their own: which of the two threads comes first must not matter
            operator = Operator(platform, random.Random(f"operator {request.param}"))
            fire = Fire(platform, database, random.Random(f"fire {request.param}"))
            found = _set_on_fire(platform, operator, fire)
            _print_figures(found)
            yield found
        finally:
            platform.stop()


def _register(platform: Platform) -> None:
    """Three versions of the model, and the rows that they rank by."""
    view = a_package().manifest.feature_view()
    values = np.arange(len(ITEMS), dtype=np.float32).reshape(-1, 1)
    rows = feature_client(platform.settings, wiring.REDIS_TIMEOUT_S)
    write_rows(rows, view, ITEMS, values, updated_ms=1, on_rows=lambda _: None)
    store = wiring.model_store(platform.settings)
    for version, scale in SCALES.items():
        assert store.register(MODEL, a_package(scale=scale)) == version


def _set_on_fire(platform: Platform, operator: Operator, fire: Fire) -> Record:
    for version in (2, 3, 1):  # fetched from the registry once, which takes MLflow some seconds
        why = f"change {len(operator.changes)}"
        operator.make(Change(len(operator.changes), "promote", "/promote", {"version": version, "why": why}, True))
        platform.wait_until_held(f"{MODEL}@{version}", 2)
    with Clients(platform.settings.gateway_url) as clients:
        clients.wait_for(CLIENTS, operator.changes[-1].revision)
        witness = Witness(operator)
        with witness, fire:
            before = len(operator.changes)
            while sum(change.acknowledged for change in operator.changes[before:]) < CHANGES:
                plan = msgspec.convert(operator.get("/plan")["plan"], TrafficPlan)
                change = operator.next(plan)
                operator.make(change)
                if change.acknowledged:
                    clients.wait_for(150 if change.kind == "start" else 40, change.revision)
                assert fire.error is None, fire.error
        history = operator.get("/history?limit=1000")["changes"][::-1]
        clients.wait_for(50, history[-1]["plan_revision"])
    last = msgspec.convert(history[-1]["plan"], TrafficPlan)
    until(lambda: _aliases(platform) == aliases_of(last), f"the aliases to follow revision {last.revision}")
    answered = {answer.ranking_id for answer in clients.served}
    until(lambda: answered <= set(platform.archived()), "every answer in the archive")
    board = RedisBoard(wiring.redis_client(platform.settings)).read()[MODEL]
    archived = set(platform.archived())
    assert fire.error is None, fire.error
    return Record(clients, fire.kills, operator.changes, witness.seen, history, board, _aliases(platform), archived)


def aliases_of(plan: TrafficPlan) -> dict[str, int]:
    """What the plan makes of them."""
    return {"champion": plan.champion} | ({"challenger": plan.challengers[0].version} if plan.challengers else {})


def _aliases(platform: Platform) -> dict[str, int]:
    """As MLflow has them."""
    url = f"{platform.settings.mlflow_url}/api/2.0/mlflow/registered-models/get"
    found = httpx.get(url, params={"name": MODEL}, timeout=60.0).json()["registered_model"]
    return {one["alias"]: int(one["version"]) for one in found.get("aliases", ())}


def _print_figures(record: Record) -> None:
    """What the README quotes."""
    clients, changes = record.clients, record.acknowledged
    took_ms = sorted((answer.at_s - answer.asked_s) * 1000 for answer in clients.served)
    late = [record.late_s(change) for change in changes if change.kind == "start" and not record.disturbed(change)]
    back = [record.late_s(change) for change in changes if change.kind in ("rollback", "abort")]
    away = [kill.back_s - kill.at_s for kill in record.kills]
    print(
        f"{len(clients.served)} answers, {len(clients.failed)} failed, {len({one.query for one in clients.lost})} "
        f"asked again ({len(clients.lost)} tries); p50 {took_ms[len(took_ms) // 2]:.0f} ms, "
        f"{sum(bool(answer.degraded) for answer in clients.served)} degraded, "
        f"p99 {took_ms[len(took_ms) * 99 // 100]:.0f} ms, longest {took_ms[-1]:.0f} ms\n"
        f"changes: {len(changes)} acknowledged of {len(record.changes)} "
        f"({dict(Counter(change.kind for change in changes))}), "
        f"{sum(one.attempts for one in record.changes)} requests, "
        f"statuses {dict(Counter(one.status for one in record.changes))}, {len(record.history)} revisions, "
        f"{(record.changes[-1].decided_s - record.changes[3].asked_s):.0f} s\n"
        f"{len(record.kills)} kills: {dict(Counter(kill.target for kill in record.kills))}, away "
        f"{min(away):.1f} to {max(away):.1f} s\n"
        f"queries lost by kill: {[(k.target, n) for k, n in _lost_by_kill(record) if n]}\n"
        f"weight applied: {_spread(late)}; taken back: {_spread(back)}"
    )


def _spread(seconds: list[float]) -> str:
    if not seconds:
        return "never"
    return f"median {statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s of {len(seconds)}"


def _lost_by_kill(record: Record) -> list[tuple[Kill, int]]:
    """How many queries lost their connection to each killed gateway; a broken one belongs to the last kill before."""
    gateways = [kill for kill in record.kills if kill.target.startswith("gateway")]
    owners = Counter[int]()
    for query, at_s in {one.query: one.at_s for one in record.clients.lost if one.tries == 1}.items():
        before = [number for number, kill in enumerate(gateways) if kill.at_s <= at_s <= kill.back_s + 0.5]
        assert before, f"{query} lost its connection although no gateway was killed"
        owners[before[-1]] += 1
    return [(kill, owners[number]) for number, kill in enumerate(gateways)]


def test_no_query_fails_but_for_connections_that_a_killed_gateway_took_along(record: Record) -> None:
    assert record.clients.failed == []
    for kill, lost in _lost_by_kill(record):
        assert lost <= CLIENTS, f"{lost} queries lost their connection when {kill.target} was killed"


def test_everything_was_killed_and_came_back(record: Record) -> None:
    assert {kill.target for kill in record.kills} == set(TARGETS)
    assert all(kill.back_s < float("inf") for kill in record.kills)


def test_every_answer_is_what_the_plan_that_it_names_says_for_its_unit_and_not_from_before_it(record: Record) -> None:
    decided_ms = {line["plan_revision"]: line["at_ms"] for line in record.history}
    versions = Counter[tuple[str, int]]()
    for answer in record.clients.served:
        plan = record.plans[answer.revision]
        assigned = plan.assign(answer.unit)
        if "challenger_away" in answer.degraded:  # just restarted workers: the champion answers for it
            assert (assigned.arm, answer.arm, answer.version) == ("challenger", "outside", plan.champion), answer
        else:
            assert (answer.arm, answer.version) == (assigned.arm, assigned.version), answer
        assert answer.at_ms >= decided_ms[answer.revision], answer
        versions[answer.arm, answer.version] += 1
    assert {("champion", version) for version in SCALES} <= versions.keys()
    assert {("challenger", version) for version in SCALES} <= versions.keys()


def test_there_is_one_champion_at_every_instant_and_every_copy_ends_with_it(record: Record) -> None:
    revisions = [revision for revision, _ in record.seen]
    assert revisions == sorted(revisions)
    assert len(set(revisions)) > CHANGES / 4  # it looked often enough to have seen another one
    for revision, champion in record.seen:
        assert record.plans[revision].champion == champion
    last = record.plans[len(record.plans)]
    assert record.board == last
    assert record.aliases == aliases_of(last)


def test_the_history_has_no_gap_and_every_change_once(record: Record) -> None:
    assert [line["plan_revision"] for line in record.history] == list(range(1, len(record.history) + 1))
    assert all(line["who"] and line["why"] and line["at_ms"] > 0 for line in record.history)
    reasons = Counter(line["why"] for line in record.history)
    by_revision = {line["plan_revision"]: line["why"] for line in record.history}
    assert len(record.acknowledged) > CHANGES
    for change in record.changes:
        if change.acknowledged:
            assert reasons[change.why] == 1, change
            assert by_revision[change.revision] == change.why, change
            assert len(change.answers) == 1, change  # however many asked for it
        elif change.retried:
            assert change.status == 409, change
            assert reasons[change.why] == 0, change
        else:
            assert reasons[change.why] <= 1, change
    assert reasons.keys() == {change.why for change in record.changes if reasons[change.why]}


def test_a_weight_that_is_set_is_in_the_answers_within_a_second(record: Record) -> None:
    started = [change for change in record.acknowledged if change.kind == "start" and not record.disturbed(change)]
    assert len(started) >= 5
    assert {one.number: late for one in started if (late := record.late_s(one)) > APPLIED_WITHIN_S} == {}
    for change in started:
        (experiment,) = record.plans[change.revision].experiments
        answers = [one for one in record.clients.served if one.revision == change.revision]
        share = sum(one.arm == "challenger" for one in answers) / len(answers)
        weight = experiment.weight / 1000
        assert abs(share - weight) < 5 * (weight * (1 - weight) / len(answers)) ** 0.5, (change, share)


def test_traffic_that_is_taken_back_is_gone_from_the_answers_within_five_seconds(record: Record) -> None:
    back = [change for change in record.acknowledged if change.kind in ("rollback", "abort")]
    assert len(back) >= CHANGES / 5
    assert {change.number: late for change in back if (late := record.late_s(change)) > ZERO_WITHIN_S} == {}


def test_every_ranking_that_was_answered_is_in_the_archive(record: Record) -> None:
    answered = [answer.ranking_id for answer in record.clients.served]
    assert len(answered) == len(set(answered))
    assert set(answered) <= record.archived
    # what a killed gateway had logged but not answered is there too
    assert len(record.archived) - len(answered) <= len({one.query for one in record.clients.lost})
