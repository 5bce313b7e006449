"""A decision written into the tables, inside the transaction of whoever calls.

The transaction writes first, on the plan's row: so it waits for others instead of failing when it would
have to turn a read lock into a write lock, and decisions about one model come one after another.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sql

from registry.contracts.rollouts import ACTIVE, Evidence, Rollout
from registry.contracts.traffic import TrafficPlan
from registry.database import insert_once
from registry.decisions import Decision, Move, layer_is_taken, settle
from registry.errors import StaleRevision, StaleRollout
from registry.tables import evidence as evidence_table
from registry.tables import rollout_history, rollouts, traffic_history, traffic_plans

IS_OPEN = rollouts.c.state.in_(ACTIVE) | rollouts.c.holdback_until_ms.is_not(None)


def write(connection: sql.Connection, decision: Decision) -> None:
    """Raises StaleRevision, StaleRollout, RolloutConflict, or IntegrityError, of which `explain` says why;
    the caller's transaction is to be rolled back then."""
    if decision.plan is not None:
        _write_plan(connection, decision, decision.plan)
    moves = sorted(decision.moves, key=lambda move: move.rollout.id)  # in one order, so that nobody waits in a circle
    for move in moves:
        _write_rollout(connection, move.rollout)
    if decision.plan is not None:
        for move in _settled(connection, decision, decision.plan):
            _write_rollout(connection, move.rollout)
            moves.append(move)
    plan_revision = _plan_revision(connection, decision.model) if moves else 0
    for move in moves:
        change = move.change(decision, plan_revision)
        row = {
            "rollout_id": move.rollout.id,
            "revision": move.rollout.revision,
            "model": move.rollout.model,
            "what": move.what,
            "at_ms": decision.now_ms,
            "change": change.encode().decode(),
        }
        connection.execute(sql.insert(rollout_history).values(row))
    keep_evidence(connection, decision.evidence)


def explain(connection: sql.Connection, decision: Decision) -> None:
    """Raises what somebody quicker did to the decision, if that is how it broke a rule of the tables."""
    if decision.plan is not None:
        actual = _plan_revision(connection, decision.plan.model)
        if actual != decision.plan.revision - 1:
            raise StaleRevision(decision.plan.model, decision.plan.revision - 1, actual)
    moved = {move.rollout.id for move in decision.moves}
    for rollout in [move.rollout for move in decision.moves]:
        actual = _rollout_revision(connection, rollout.id)
        if actual != rollout.revision - 1:
            raise StaleRollout(rollout.id, rollout.revision - 1, actual)
        in_layer = (rollouts.c.model == rollout.model) & (rollouts.c.layer == rollout.layer)
        query = sql.select(rollouts.c.rollout).where(in_layer & rollouts.c.state.in_(ACTIVE))
        for other in [Rollout.decode(found.encode()) for found in connection.scalars(query)]:
            if rollout.active and other.id not in moved:
                raise layer_is_taken(rollout, other)


def keep_evidence(connection: sql.Connection, kept: Iterable[Evidence]) -> None:
    """Once each, in one order."""
    for one in sorted(kept, key=lambda one: one.id):
        row = {
            "id": one.id,
            "model": one.model,
            "kind": one.kind,
            "challenger_digest": one.challenger_digest,
            "verdict": one.verdict,
            "made_ms": one.made_ms,
            "record": one.encode().decode(),
        }
        insert_once(connection, evidence_table, row)


def _write_plan(connection: sql.Connection, decision: Decision, plan: TrafficPlan) -> None:
    row = {"model": plan.model, "revision": plan.revision, "plan": plan.encode().decode()}
    expected = plan.revision - 1
    if expected == 0:
        connection.execute(sql.insert(traffic_plans).values(row))
    else:
        at_expected = (traffic_plans.c.model == plan.model) & (traffic_plans.c.revision == expected)
        if connection.execute(sql.update(traffic_plans).where(at_expected).values(row)).rowcount != 1:
            raise StaleRevision(plan.model, expected, _plan_revision(connection, plan.model))
    record = {
        "at_ms": decision.now_ms,
        "who": decision.who,
        "why": decision.why,
        "evidence": msgspec.json.encode(dict(decision.record)).decode(),
    }
    connection.execute(sql.insert(traffic_history).values(row | record))


def _write_rollout(connection: sql.Connection, rollout: Rollout) -> None:
    row: dict[str, Any] = {
        "id": rollout.id,
        "model": rollout.model,
        "layer": rollout.layer,
        "state": rollout.state,
        "revision": rollout.revision,
        "started_revision": rollout.started_revision,
        "started_ms": rollout.started_ms,
        "holdback_until_ms": rollout.holdback_until_ms,
        "rollout": rollout.encode().decode(),
    }
    expected = rollout.revision - 1
    if expected == 0:
        connection.execute(sql.insert(rollouts).values(row))
        return
    at_expected = (rollouts.c.id == rollout.id) & (rollouts.c.revision == expected)
    if connection.execute(sql.update(rollouts).where(at_expected).values(row)).rowcount != 1:
        raise StaleRollout(rollout.id, expected, _rollout_revision(connection, rollout.id))


def _settled(connection: sql.Connection, decision: Decision, plan: TrafficPlan) -> list[Move]:
    """What the plan does to rollouts that the decision does not move; they stay locked until its end."""
    moved = [move.rollout.id for move in decision.moves]
    others = (rollouts.c.model == plan.model) & IS_OPEN & rollouts.c.id.not_in(moved)
    query = sql.select(rollouts.c.rollout).where(others).order_by(rollouts.c.id).with_for_update()
    found = [Rollout.decode(row.encode()) for row in connection.scalars(query)]
    return settle(plan, found, decision.now_ms)


def _plan_revision(connection: sql.Connection, model: str | None) -> int:
    query = sql.select(traffic_plans.c.revision).where(traffic_plans.c.model == model)
    return connection.scalar(query) or 0


def _rollout_revision(connection: sql.Connection, rollout_id: str) -> int:
    return connection.scalar(sql.select(rollouts.c.revision).where(rollouts.c.id == rollout_id)) or 0
