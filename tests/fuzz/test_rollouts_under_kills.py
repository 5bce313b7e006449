"""The control API, the engine and a kill between any decision and its publication, on the real tables, in any order.

What outlives a kill here is what outlives one there: the database, the board (Redis) and the versions with their
aliases (MLflow). Everything else is made anew, as a process that starts makes it.
"""

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar, get_args

import msgspec
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from deploy.control.app import answer
from deploy.control.asks import Reply
from deploy.control.desk import Desk
from pipelines.archive.files import Archive
from pipelines.gates.planning import GatePlanner
from pipelines.rollouts.canary import outlook
from pipelines.rollouts.engine import RolloutEngine
from registry.api_keys import SqlKeyRing, key_text, make_key
from registry.audit import SqlAuditLog
from registry.board import MemoryBoard
from registry.contracts.rollouts import Need, Rollout, Step, What
from registry.contracts.traffic import WEIGHT_STEPS, TrafficPlan
from registry.counters import MemoryCounterBoard
from registry.errors import StoreUnavailable
from registry.promotion import Promoter
from registry.runs import SqlRuns
from registry.store import MemoryStore
from registry.traffic_control import SqlControl
from serving.gateway.control.routes import CONTROL_ROUTES
from tests.builders import NOW_MS, a_package

MODEL = "codesearch"
VERSIONS = 4
ROUTES = {route.name: route for route in CONTROL_ROUTES}
STEPS = (
    Step("gate", "gate", needs=(Need("offline_gate", "ever", 86400.0),)),
    Step("wait", "gate", min_s=5.0),
    Step("mirror", "mirror", mirror_share=100, min_s=5.0, needs=(Need("rank_diff"),)),
)


CHANGES = ("start_rollout", "start_rollout", "promote", "rollback", "pause_rollout", "resume_rollout", "abort_rollout")


class Killed(BaseException):
    """The process ends here, as by kill -9: nothing of it runs any more."""


class Board(MemoryBoard):
    """fate: of who shows a plan. It goes well, Redis is away, or the process is killed before or after."""

    def __init__(self) -> None:
        super().__init__()
        self.fate = "well"

    def publish(self, plan: TrafficPlan) -> None:
        """See `PlanBoard`."""
        if self.fate == "away":
            raise StoreUnavailable("Redis does not answer")
        if self.fate == "killed before":
            raise Killed
        super().publish(plan)
        if self.fate == "killed after":
            raise Killed


FATES = st.sampled_from(["well", "well", "well", "away", "killed before", "killed after"])


class PeopleEngineAndKills(RuleBasedStateMachine):
    """People with idempotency keys, an engine, and processes that end in between.

    happened: to rollouts, over all runs.
    """

    happened: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="sluice-rollouts-"))
        self.board, self.store = Board(), MemoryStore()
        for version in range(VERSIONS):
            self.store.register(MODEL, a_package(created_ms=NOW_MS + version))
        self.now_ms = NOW_MS
        self.key = key_text(bytes(32))
        self.answers: dict[str, tuple[int, Any]] = {}  # by idempotency key: what the first complete answer said
        self.asked: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {}
        self.revision = self.shown = 0
        self.begin()
        self.ring.add(make_key(self.key, "ann", "admin", created_ms=NOW_MS, created_by="the test"), self.key)
        assert self.ask("promote", {"version": 1, "why": "first"}, key="first").status == 200

    def begin(self) -> None:
        """A process starts."""
        self.control = SqlControl(f"sqlite:///{self.folder / 'control.db'}")
        self.ring = SqlKeyRing(self.control.engine)
        self.promoter = Promoter(self.store, self.control, self.board)
        self.engine = RolloutEngine(self.control, self.board, MemoryCounterBoard(), lambda _: None)
        self.desk = Desk(
            self.control,
            self.ring,
            lambda: self.store,
            lambda model: self.promoter.publish([model]),
            lambda rollout: outlook(self.engine.look(rollout, self.now_ms)),
            GatePlanner(Archive(self.folder / "archive")),
            SqlRuns(self.control.engine),
            SqlAuditLog(self.control.engine),
            wall_ms=lambda: self.now_ms,
        )

    def killed(self) -> None:
        """The process is gone and another starts, which repairs as every start does."""
        self.control.close()
        self.board.fate = "well"
        self.begin()
        self.promoter.repair()

    def teardown(self) -> None:
        self.killed()
        for rollout in self.control.rollouts(MODEL):
            self.happened.update(change.what for change in self.control.rollout_history(rollout.id))
        self.engine.turn(self.now_ms)
        plan = self.control.plan(MODEL)
        assert plan is not None
        assert self.board.read() == {MODEL: plan}
        assert self.store.aliases(MODEL)["champion"] == plan.champion
        self.control.close()
        shutil.rmtree(self.folder)

    # who does what

    def ask(self, route: str, body: dict[str, Any], key: str = "", rollout: str = "", if_match: str = "") -> Reply:
        """What a client gets, who asks again with the same key until the answer is complete."""
        path = {
            name: value for name, value in (("model", MODEL), ("id", rollout)) if f"{{{name}}}" in ROUTES[route].path
        }
        headers = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        headers |= {"idempotency-key": key} if key else {}
        headers |= {"if-match": if_match} if if_match else {}
        try:
            reply = answer(self.desk, ROUTES[route], path, {}, headers, msgspec.json.encode(body))
        except Killed:
            self.killed()
            if not key:
                return Reply(0, b"")
            reply = answer(self.desk, ROUTES[route], path, {}, headers, msgspec.json.encode(body))
        assert reply.status < 500 or (reply.status == 503 and self.board.fate == "away"), reply
        if key and reply.status != 503 and (reply.status < 300 or reply.replayed):
            told = (reply.status, msgspec.json.decode(reply.body))
            assert self.answers.setdefault(key, told) == told, "one request, two answers"
            self.asked.setdefault(key, (route, body, path))
        return reply

    def rollout(self) -> Rollout | None:
        """The newest."""
        found = self.control.rollouts(MODEL)
        return max(found, key=lambda one: one.started_revision) if found else None

    @rule(data=st.data(), fate=FATES, route=st.sampled_from(CHANGES), with_key=st.booleans())
    def somebody_changes_something(self, data: st.DataObject, fate: str, route: str, with_key: bool) -> None:
        """Any change, perhaps on a revision that was seen."""
        self.now_ms += 1
        body: dict[str, Any] = {"why": f"as {route} does"}
        if route in ("promote", "start_rollout"):
            body["version"] = data.draw(st.integers(1, VERSIONS))
        if route == "start_rollout":
            body |= {"steps": msgspec.to_builtins(STEPS), "holdback_s": data.draw(st.sampled_from([0.0, 20.0]))}
        rollout = self.rollout()
        if route.endswith("_rollout") and route != "start_rollout" and rollout is None:
            return
        seen = data.draw(st.sampled_from(["", "", f'"{self.revision}"', '"1"']))
        named = rollout.id if rollout is not None and "{id}" in ROUTES[route].path else ""
        self.board.fate = fate
        self.ask(route, body, f"at-{self.now_ms}" if with_key else "", named, seen)
        self.board.fate = "well"

    @rule(data=st.data(), fate=FATES)
    def a_client_asks_again(self, data: st.DataObject, fate: str) -> None:
        """Long after its answer: it gets the same one, and nothing is done."""
        key = data.draw(st.sampled_from(sorted(self.asked)))
        route, body, path = self.asked[key]
        before = self.control.history(MODEL)
        self.board.fate = fate
        reply = self.ask(route, body, key, path.get("id", ""))
        self.board.fate = "well"
        assert reply.status == 503 or reply.replayed
        assert self.control.history(MODEL) == before

    @rule(kind=st.sampled_from(["offline_gate", "rank_diff"]), verdict=st.sampled_from(["passed", "passed", "failed"]))
    @precondition(lambda self: self.rollout() is not None and self.rollout().active)
    def somebody_measures(self, kind: str, verdict: str) -> None:
        """Evidence of the rollout's two versions, on its step's traffic."""
        rollout = self.rollout()
        assert rollout is not None
        self.now_ms += 1
        reply = self.ask(
            "add_evidence",
            {
                "kind": kind,
                "challenger": rollout.challenger,
                "champion": rollout.champion,
                "verdict": verdict,
                "why": "measured",
                "plan_revision": rollout.plan_revision,
                "experiment": rollout.experiment,
            },
        )
        assert reply.status == 201, reply

    @rule(after_s=st.sampled_from([0, 1, 6, 30]), fate=FATES)
    def the_engine_turns(self, after_s: int, fate: str) -> None:
        """Later, and perhaps for the last time."""
        self.now_ms += after_s * 1000
        self.board.fate = fate
        try:
            self.engine.turn(self.now_ms)
        except Killed:
            self.killed()
        self.board.fate = "well"

    @rule(resumes=st.booleans(), fate=FATES)
    @precondition(lambda self: self.rollout() is not None and self.rollout().active)
    def somebody_hesitates(self, resumes: bool, fate: str) -> None:
        """Pauses, and perhaps goes on."""
        rollout = self.rollout()
        assert rollout is not None
        for route in ("pause_rollout", "resume_rollout")[: 1 + resumes]:
            self.now_ms += 1
            self.board.fate = fate
            self.ask(route, {"why": "to think"}, f"at-{self.now_ms}", rollout.id)
            self.board.fate = "well"

    @rule(times=st.integers(1, 4), fate=FATES)
    def all_goes_well_for_a_while(self, times: int, fate: str) -> None:
        """Everything a step waits for is there, and the engine turns."""
        plan, rollout = self.control.plan(MODEL), self.rollout()
        if plan is not None and (rollout is None or not rollout.active):
            body = {"version": plan.champion % VERSIONS + 1, "why": "the next", "holdback_s": 20.0}
            self.ask("start_rollout", body | {"steps": msgspec.to_builtins(STEPS)})
        for _ in range(times):
            for kind in ("offline_gate", "rank_diff"):
                if (rollout := self.rollout()) is not None and rollout.active:
                    self.somebody_measures(kind, "passed")
            self.the_engine_turns(6, fate)

    @rule()
    def a_process_ends(self) -> None:
        self.killed()

    # what holds

    @invariant()
    def revisions_grow_and_the_board_never_runs_ahead_nor_back(self) -> None:
        plan = self.control.plan(MODEL)
        assert plan is not None
        history = self.control.history(MODEL)
        assert [change.revision for change in history] == list(range(1, len(history) + 1))
        shown = self.board.read()[MODEL].revision
        assert self.revision <= plan.revision
        assert self.shown <= shown <= plan.revision
        self.revision, self.shown = plan.revision, shown

    @invariant()
    def there_is_one_champion_and_shares_are_whole(self) -> None:
        plan = self.control.plan(MODEL)
        assert plan is not None
        assert 1 <= plan.champion <= VERSIONS
        for layer in plan.layers:
            assert sum(one.weight for one in layer.experiments) <= WEIGHT_STEPS
        was = {change.plan.champion for change in self.control.history(MODEL)}
        assert self.store.aliases(MODEL)["champion"] in was

    @invariant()
    def an_active_rollout_is_in_the_plan_and_no_other_is(self) -> None:
        plan = self.control.plan(MODEL)
        assert plan is not None
        for rollout in self.control.rollouts(MODEL):
            assert (plan.experiment(rollout.experiment) is not None) == rollout.active
            assert not rollout.active or rollout.champion == plan.champion


def test_no_kill_and_no_order_of_requests_breaks_a_rollout() -> None:
    run_state_machine_as_test(
        PeopleEngineAndKills,
        settings=settings(
            max_examples=12, stateful_step_count=25, deadline=None, phases=[Phase.generate], derandomize=True
        ),
    )

    assert set(get_args(What)) - {"superseded"} <= set(PeopleEngineAndKills.happened), PeopleEngineAndKills.happened
