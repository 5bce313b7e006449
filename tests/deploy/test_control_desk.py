"""The desk between two requests: what somebody quicker does while one is being answered."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.control.access import Caller
from deploy.control.asks import Ask
from deploy.control.conditions import IfMatch
from deploy.control.desk import Desk
from deploy.control.errors import Conflict, OtherRevision
from deploy.control.handlers import HANDLERS
from deploy.control.traffic import rollback
from pipelines.archive.files import Archive
from pipelines.gates.planning import GatePlanner
from registry.api_keys import MemoryKeyRing, key_text, make_key
from registry.contracts.traffic import TrafficPlan
from registry.runs import MemoryRuns
from registry.store import MemoryStore
from registry.traffic_control import SqlControl, TrafficChange
from serving.gateway.control.routes import CONTROL_ROUTES
from serving.gateway.control.traffic import PromoteBody, RollbackBody
from tests.builders import NOW_MS, a_package, a_plan

MODEL = "codesearch"
CALLER = Caller(make_key(key_text(bytes(32)), "ci", "admin", created_ms=NOW_MS, created_by="test"))


class Overtaken(SqlControl):
    """Somebody changes the plan just after the desk has read it. times: how often."""

    times = 0

    def plan(self, model: str) -> TrafficPlan | None:
        found = super().plan(model)
        if found is not None and self.times:
            self.times -= 1
            self.change(found, expected_revision=found.revision, who="bob", why="quicker", evidence={}, now_ms=NOW_MS)
        return found


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Overtaken]:
    """Two champions, one after the other."""
    control = Overtaken(f"sqlite:///{tmp_path / 'control.db'}")
    for champion in (1, 2):
        plan = a_plan(champion=champion)
        control.change(plan, expected_revision=champion - 1, who="ann", why="w", evidence={}, now_ms=NOW_MS)
    yield control
    control.close()


def desk(control: Overtaken) -> Desk:
    """Both champions are registered."""
    planner, store = GatePlanner(Archive(Path("no-archive"))), MemoryStore()
    for scale in (1.0, 2.0):
        store.register(MODEL, a_package(scale))
    return Desk(
        control, MemoryKeyRing(), lambda: store, lambda _: None, lambda _: {}, planner, MemoryRuns(), lambda: NOW_MS
    )


def ask(name: str, body: object, if_match: str = "") -> Ask:
    route = next(route for route in CONTROL_ROUTES if route.name == name)
    return Ask(route, CALLER, NOW_MS, MODEL, body=body, if_match=IfMatch.parse(if_match))


def last(control: Overtaken) -> TrafficChange:
    return control.history(MODEL)[-1]


CHANGES: list[Callable[[str], Ask]] = [
    lambda tag: ask("rollback", RollbackBody("back"), tag),
    lambda tag: ask("promote", PromoteBody(2, "again"), tag),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_on_a_revision_that_somebody_passes_meanwhile_is_not_made(
    control: Overtaken, change: Callable[[str], Ask]
) -> None:
    control.times = 1
    asked = change('"2"')

    with pytest.raises(OtherRevision, match="at revision 3"):
        HANDLERS[asked.route.name](desk(control), asked)

    assert (last(control).revision, last(control).who) == (3, "bob")


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_without_a_condition_is_made_on_what_is_there_then(
    control: Overtaken, change: Callable[[str], Ask]
) -> None:
    control.times = 3
    asked = change("")

    reply = HANDLERS[asked.route.name](desk(control), asked)

    assert (reply.plan_revision, last(control).revision, last(control).who) == (6, 6, "ci")


def test_a_change_that_others_always_overtake_is_given_up_with_words(control: Overtaken) -> None:
    control.times = 1000

    with pytest.raises(Conflict, match="changed 10 times meanwhile"):
        rollback(desk(control), ask("rollback", RollbackBody("back")))

    assert last(control).who == "bob"
