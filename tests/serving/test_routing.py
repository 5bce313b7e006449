"""What a plan asks for, asserted from the answers of a gateway in front of real workers, and from their events."""

import http.client
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from prometheus_client import REGISTRY
from scipy.stats import chi2_contingency

from registry.contracts.counters import ArmCounters
from registry.contracts.events import MirrorEvent, RankingEvent
from registry.contracts.features import FeatureView
from registry.contracts.traffic import Experiment, Layer, Override, TrafficPlan
from registry.counters import MemoryCounterBoard
from serving.arm_counts import KEPT_REVISIONS, MAX_EXPERIMENT_LABELS, ArmCounts, CounterPublisher
from serving.plans import newly_served
from serving.program import Program
from serving.router import Router
from serving.scoring import LoadedModel
from tests.builders import NOW_MS, a_plan, a_tested_plan, a_view
from tests.serving.http_gateway import RunningGateway, a_running_gateway
from tests.serving.workbench import LENGTHS, PATIENCE_S, VIEW, Held, Replica, SumOfFeatures, a_loaded_model, a_replica

ITEMS = [f"item-{i}" for i in range(100, 125)]  # of positive lengths: the sign of a score tells the version
DIGESTS = {version: f"{version:064x}" for version in (1, 2, 3)}


class Turned(SumOfFeatures):
    """Ranks the other way round: the score is minus the sum of a row."""

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        return -SumOfFeatures.score(self, features, query_index)


class Broken(SumOfFeatures):
    """Fails on every batch."""

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        raise ZeroDivisionError("broken")


def an_experiment(name: str = "test", version: int = 2, weight: int = 0, **changes: Any) -> Experiment:
    return Experiment(name, version, DIGESTS[version], weight, **changes)


def a_plan_of(*layers: Sequence[Experiment], **changes: Any) -> TrafficPlan:
    """A champion and these experiments, a sequence a layer."""
    made = [Layer(f"layer-{i}", f"salt-{i}", tuple(layer)) for i, layer in enumerate(layers)]
    return a_plan(layers=tuple(made), **changes)


EVERY_VERSION = a_plan_of([an_experiment("two", 2), an_experiment("three", 3)])


@dataclass(frozen=True)
class Response:
    """What the gateway said. Thousands are asked for here, which is why there is no richer client."""

    status_code: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Asker:
    """A client of the gateway."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.gateway = gateway
        self.connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=PATIENCE_S)

    def post_to(self, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        told = {"content-type": "application/json"} | (headers or {})
        self.connection.request("POST", path, json.dumps(body), told)
        answer = self.connection.getresponse()
        return Response(answer.status, answer.read().decode())

    def post(self, headers: dict[str, str] | None = None, **fields: Any) -> Response:
        """A query for all items."""
        return self.post_to("/v1/models/codesearch/rank", {"candidates": ITEMS} | fields, headers)

    def ask(self, **fields: Any) -> dict[str, Any]:
        """The answer to a query, which must be one."""
        response = self.post(**fields)
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.json()
        return body

    def events_of(self, answers: Sequence[dict[str, Any]]) -> list[RankingEvent]:
        """The event of each answer."""
        logged = {one.ranking_id: one for one in self.gateway.logged() if isinstance(one, RankingEvent)}
        return [logged[answer["ranking_id"]] for answer in answers]

    def mirrored(self) -> list[MirrorEvent]:
        """Of all queries asked so far, once all of those have ended."""
        self.gateway.turn()
        self.gateway.until(lambda: self.gateway.mirror.in_flight == 0)
        return self.mirrored_by_now()

    def mirrored_by_now(self) -> list[MirrorEvent]:
        return [event for event in self.gateway.logged() if isinstance(event, MirrorEvent)]

    def counted(self) -> dict[tuple[int, str, str], ArmCounters]:
        """By plan revision, experiment and arm."""
        counters = self.gateway.ranker.counts.snapshot("gateway", NOW_MS).arms
        return {(one.plan_revision, one.experiment, one.arm): one for one in counters}


Load = Callable[[str, int, str], LoadedModel]


def loader(
    programs: dict[int, Program] | None = None,
    holds: Sequence[int] = (1, 2, 3),
    views: dict[int, FeatureView] | None = None,
) -> Load:
    """Loads the sum of a row as version 1 and minus that as any other, unless told otherwise; no version
    beside those it holds."""

    def load(model: str, version: int, digest: str) -> LoadedModel:
        if version not in holds:
            raise MemoryError(f"version {version} is for another worker")
        program = (programs or {}).get(version) or (SumOfFeatures() if version == 1 else Turned())
        return a_loaded_model(program, version=version, digest=digest, view=(views or {}).get(version, VIEW))

    return load


@contextmanager
def asked(*loads: Load, plan: TrafficPlan = EVERY_VERSION, **changes: Any) -> Iterator[tuple[Asker, list[Replica]]]:
    """A gateway in front of one worker a loader; changes are the gateway's settings'."""
    with ExitStack() as stack:
        replicas = [stack.enter_context(a_replica(plan=plan, load=load)) for load in loads or (loader(),)]
        addresses = tuple(one.address for one in replicas)
        gateway = stack.enter_context(a_running_gateway(addresses, plan, keep_alive_s=600, **changes))
        asker = Asker(gateway)
        stack.callback(asker.connection.close)
        yield asker, replicas


@pytest.fixture(scope="module")
def asker() -> Iterator[Asker]:
    """Of a gateway that any plan of versions 1 to 3 can be given to."""
    with asked() as (asker, _):
        yield asker


_revisions = iter(range(2, 10_000))


def follow(asker: Asker, plan: TrafficPlan) -> TrafficPlan:
    """The plan under the next revision, followed."""
    numbered = TrafficPlan(
        plan.model,
        next(_revisions),
        plan.champion,
        plan.champion_digest,
        plan.layers,
        plan.overrides,
        plan.explore_share,
        plan.explore_depth,
    )
    asker.gateway.follow(numbered)
    return numbered


def is_by_champion(answer: dict[str, Any]) -> bool:
    return [item["id"] for item in answer["items"]] == ITEMS[: -len(answer["items"]) - 1 : -1]


def is_by_challenger(answer: dict[str, Any]) -> bool:
    return [item["id"] for item in answer["items"]] == ITEMS[: len(answer["items"])]


def within(count: int, of: int, share: float) -> bool:
    """Whether a count is what coins of this share give, in all but one of 16,000 cases (4 sigma)."""
    return abs(count - of * share) <= 4 * np.sqrt(of * share * (1 - share)) + 1e-9


# arms


def test_each_arm_gets_its_share_of_units_and_its_version_answers(asker: Asker) -> None:
    plan = follow(
        asker,
        a_plan_of([an_experiment("ab", 2, 250), an_experiment("drafts", 3, 100, first=400, kind="interleaving")]),
    )

    answers = [asker.ask(unit=f"user-{i}") for i in range(800)]

    arms = Counter((answer["arm"], answer["experiment"]) for answer in answers)
    assert arms.keys() == {("champion", ""), ("challenger", "ab"), ("interleaved", "drafts")}
    assert within(arms["challenger", "ab"], 800, 0.25)
    assert within(arms["interleaved", "drafts"], 800, 0.1)
    for answer in answers:
        assert answer["plan_revision"] == plan.revision
        if answer["arm"] == "champion":
            assert (answer["version"], is_by_champion(answer)) == (1, True)
        elif answer["arm"] == "challenger":
            assert (answer["version"], is_by_challenger(answer)) == (2, True)
        else:
            assert answer["version"] == 1
    for event, answer in zip(asker.events_of(answers), answers, strict=True):
        assert (event.arm, event.experiment, event.version) == (answer["arm"], answer["experiment"], answer["version"])
        assert event.team_version == (3 if event.arm == "interleaved" else 0)


@pytest.mark.parametrize(("weight", "arms"), [(0, {"champion"}), (1000, {"challenger"})])
def test_a_weight_of_none_or_all_is_none_or_all(asker: Asker, weight: int, arms: set[str]) -> None:
    follow(asker, a_plan_of([an_experiment(weight=weight)]))

    assert {asker.ask(unit=f"user-{i}")["arm"] for i in range(60)} == arms


def test_a_unit_stays_in_its_arm_when_the_weight_grows_and_a_new_salt_deals_anew(asker: Asker) -> None:
    units = [f"user-{i}" for i in range(150)]
    taken = []
    for weight in (100, 250, 500):
        follow(asker, a_plan_of([an_experiment(weight=weight)]))
        taken.append({unit for unit in units if asker.ask(unit=unit)["arm"] == "challenger"})
        assert taken[-1] == {unit for unit in units if is_by_challenger(asker.ask(unit=unit))}

    assert taken[0] < taken[1] < taken[2]
    follow(asker, a_plan(layers=(Layer("layer-0", "another salt", (an_experiment(weight=500),)),)))
    anew = {unit for unit in units if asker.ask(unit=unit)["arm"] == "challenger"}
    assert within(len(anew & taken[2]), len(taken[2]), 0.5)


def test_layers_are_independent_and_who_is_in_two_gets_the_champion_outside_of_both(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment("two", 2, 400)], [an_experiment("three", 3, 300)]))

    answers = [asker.ask(unit=f"user-{i}") for i in range(1200)]

    found = Counter((answer["arm"], answer["experiment"]) for answer in answers)
    # by layer: neither, the first alone, the second alone, both
    table = [
        [found["champion", ""], found["challenger", "three"]],
        [found["challenger", "two"], found["outside", ""]],
    ]
    assert sum(map(sum, table)) == 1200
    assert within(sum(table[1]), 1200, 0.4)
    assert within(table[0][1] + table[1][1], 1200, 0.3)
    assert chi2_contingency(table).pvalue > 1e-4
    assert all(is_by_champion(answer) for answer in answers if answer["arm"] == "outside")


def test_a_query_without_a_unit_gets_the_champion(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment(weight=1000)]))

    assert (asker.ask()["arm"], asker.ask(unit="ann")["arm"]) == ("champion", "challenger")


# testers


def test_a_testers_unit_gets_its_version_outside_of_every_arm(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment(weight=0)], overrides=(Override("ann", 2, DIGESTS[2]),)))

    answer = asker.ask(unit="ann")

    assert (answer["arm"], answer["experiment"], answer["version"]) == ("outside", "", 2)
    assert is_by_challenger(answer)


def test_a_query_may_name_a_version_of_its_plan_where_that_is_allowed(asker: Asker) -> None:
    plan = a_plan_of([an_experiment(weight=0)])
    with asked(loader(), plan=plan, version_header=True) as (open_asker, _):
        answer = open_asker.post({"X-Sluice-Version": "2"}, unit="ann").json()
        assert (answer["arm"], answer["version"], is_by_challenger(answer)) == ("outside", 2, True)
        assert open_asker.ask(unit="ann")["arm"] == "champion"
        for value, rule in (("7", "names 1, 2"), ("x", "expected a version's number"), ("0", "expected a version")):
            refused = open_asker.post({"X-Sluice-Version": value})
            assert (refused.status_code, rule in refused.json()["error"]) == (400, True), refused.text

    refused = asker.post({"X-Sluice-Version": "2"})
    assert (refused.status_code, "SLUICE_VERSION_HEADER=1" in refused.json()["error"]) == (400, True)


# drafts


def test_every_interleaved_list_has_coins_of_its_own_and_its_propensities_are_how_often_it_comes(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment(weight=1000, kind="interleaving")]))

    answers = [asker.ask(unit="ann", top_k=5) for _ in range(500)]

    events = asker.events_of(answers)
    seen = Counter((at, item) for event in events for at, item in enumerate(event.items))
    for event in events:
        assert (event.arm, event.experiment, event.version, event.team_version) == ("interleaved", "test", 1, 2)
        assert abs(2 * sum(event.teams) - 5) == 1
        for at, (item, told) in enumerate(zip(event.items, event.propensity_array().tolist(), strict=True)):
            assert within(seen[at, item], 500, told), (at, item, told)
    assert within(sum(event.teams[0] for event in events), 500, 0.5)
    drafts = {event.teams[:4] for event in events}
    assert len(drafts) == 4  # both coins of the first two rounds, in every combination
    repeats = sum(left.teams[0] == right.teams[0] for left, right in itertools.pairwise(events))
    assert within(repeats, 499, 0.5)


def test_scores_and_features_of_an_interleaved_item_are_its_teams_and_users_are_not_told_whose(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment(weight=1000, kind="interleaving")]))

    answer = asker.ask(unit="ann", features={"match": [0.25] * len(ITEMS)})

    [event] = asker.events_of([answer])
    assert answer["items"][0].keys() == {"id", "score", "position"}
    assert "teams" not in answer
    assert [item["id"] for item in answer["items"]] == list(event.items)
    rows = event.feature_matrix()
    picks: list[list[str]] = [[], []]
    for item, team, score, row in zip(event.items, event.teams, event.score_array(), rows, strict=True):
        assert score == (LENGTHS[item] + 0.25) * (-1 if team else 1)
        assert row.tolist() == [LENGTHS[item], 0.25, 0.0]
        picks[team].append(item)
    assert picks == [ITEMS[: -len(picks[0]) - 1 : -1], ITEMS[: len(picks[1])]]  # they have no item in common
    assert event.fingerprint == VIEW.fingerprint


def test_features_of_two_views_are_not_mixed_in_one_event() -> None:
    plan = a_plan_of([an_experiment(weight=1000, kind="interleaving")])
    with asked(loader(views={2: a_view("another")}), plan=plan) as (asker, _):
        answer = asker.ask(unit="ann")

        [event] = asker.events_of([answer])
        assert (event.arm, event.features, len(event.scores)) == ("interleaved", b"", 4 * len(event.items))


def test_a_failing_version_leaves_the_champions_list_whole_and_out_of_the_arm() -> None:
    plan = a_plan_of([an_experiment(weight=1000, kind="interleaving")])
    with asked(loader({2: Broken()}), plan=plan) as (asker, _):
        answers = [asker.ask(unit=f"user-{i}") for i in range(5)]

        for answer, event in zip(answers, asker.events_of(answers), strict=True):
            assert is_by_champion(answer)
            assert answer["degraded"][0] == event.degraded[0] == "interleaving_away"
            assert (answer["arm"], answer["experiment"], answer["version"]) == ("outside", "test", 1)
            assert (event.teams, event.team_version) == (b"", 0)
            assert event.propensity_array().tolist() == [1.0] * len(event.items)
        counted = asker.counted()
        assert counted.keys() == {(1, "test", "interleaved")}
        drafted = counted[1, "test", "interleaved"]
        assert (drafted.answered, drafted.degraded, drafted.away) == (5, 5, 5)


def test_a_version_that_hangs_leaves_the_champions_list_inside_the_deadline() -> None:
    hanging = Held(Turned())
    plan = a_plan_of([an_experiment(weight=1000, kind="interleaving")])
    with asked(loader(holds=[1]), loader({2: hanging}, holds=[2]), plan=plan) as (asker, _):
        try:
            answer = asker.ask(unit="ann", deadline_ms=1000)

            assert (answer["arm"], is_by_champion(answer)) == ("outside", True)
            assert "interleaving_away" in answer["degraded"]
        finally:
            hanging.let_go.set()


# away


def test_units_of_a_version_that_is_away_get_the_champion_and_come_back_to_it() -> None:
    plan = a_tested_plan(weight=1000)
    with asked(loader(holds=[1]), loader(holds=[2]), plan=plan) as (asker, replicas):
        assert asker.ask(unit="ann")["arm"] == "challenger"

        replicas[1].stop()
        asker.gateway.until(lambda: not asker.gateway.pool.fleet.has("codesearch", 2))
        away = asker.ask(unit="ann")

        assert (away["arm"], away["experiment"], away["version"]) == ("outside", "test", 1)
        assert (is_by_champion(away), "challenger_away" in away["degraded"]) == (True, True)
        [event] = asker.events_of([away])
        assert (event.arm, event.experiment, "challenger_away" in event.degraded) == ("outside", "test", True)
        # absent columns mark every answer here: both are degraded, and both are the challenger's
        counted = asker.counted()
        assert counted.keys() == {(1, "test", "challenger")}
        assert counted[1, "test", "challenger"].answered == 2

        replicas[1].start()
        asker.gateway.until(lambda: asker.gateway.pool.fleet.has("codesearch", 2))
        assert asker.ask(unit="ann")["arm"] == "challenger"


def test_a_weight_goes_to_nothing_also_while_the_version_is_away() -> None:
    plan = a_tested_plan(weight=1000)
    with asked(loader(holds=[1]), loader(holds=[2]), plan=plan) as (asker, replicas):
        replicas[1].stop()
        asker.gateway.until(lambda: not asker.gateway.pool.fleet.has("codesearch", 2))

        asker.gateway.follow(a_tested_plan(weight=0, revision=2))

        answer = asker.ask(unit="ann")
        assert (answer["arm"], answer["plan_revision"], "challenger_away" in answer["degraded"]) == (
            "champion",
            2,
            False,
        )
        replicas[1].start()


def test_a_plan_waits_for_a_version_that_is_new_or_becomes_champion() -> None:
    one, two, three = ((version, DIGESTS[version]) for version in (1, 2, 3))
    followed = a_plan_of([an_experiment(version=2, weight=100)])

    assert newly_served(a_plan_of([an_experiment(version=2, weight=900)]), followed) == {}
    assert newly_served(a_plan(), followed) == {}
    idle = a_plan_of([an_experiment(version=2)])
    assert newly_served(a_plan_of([an_experiment(version=3)]), idle) == dict([three])
    assert newly_served(a_plan(champion=2), followed) == dict([two])
    again = a_plan_of([Experiment("test", 2, "another digest")])
    assert newly_served(again, idle) == {2: "another digest"}
    assert newly_served(followed, a_plan(champion=3)) == dict([one, two])


class Fickle(SumOfFeatures):
    """As Turned, while it is well."""

    def __init__(self) -> None:
        super().__init__()
        self.well, self.failures = False, 0

    def score(
        self, features: NDArray[np.float32], query_index: NDArray[np.int64], timeout_s: float | None = None
    ) -> NDArray[np.float32]:
        """See `serving.program.Program`."""
        if not self.well:
            self.failures += 1
            raise ZeroDivisionError("unwell")
        return -SumOfFeatures.score(self, features, query_index)


@pytest.mark.parametrize("kind", ["ab", "interleaving"])
def test_units_of_a_version_that_fails_get_the_champion_until_it_is_well(kind: Literal["ab", "interleaving"]) -> None:
    fickle = Fickle()
    with asked(loader({2: fickle}), plan=a_tested_plan(weight=1000, kind=kind)) as (asker, _):
        arm, reason = ("challenger", "challenger_away") if kind == "ab" else ("interleaved", "interleaving_away")
        first = [asker.post(unit=f"user-{i}").status_code for i in range(20)]
        assert set(first) == {200}  # the champion's, one by one, before the breaker opens

        answers = [asker.post(unit=f"user-{i}") for i in range(30)]

        away = [answer.json() for answer in answers if answer.status_code == 200]
        assert len(away) >= 25  # the others were probes
        assert all(one["arm"] == "outside" and one["degraded"][0] == reason and is_by_champion(one) for one in away)
        assert asker.counted()[1, "test", arm].degraded >= asker.counted()[1, "test", arm].away >= 25

        fickle.well = True

        asker.gateway.until(lambda: asker.post(unit="ann").json().get("arm") == arm)
        assert {asker.ask(unit=f"user-{i}")["arm"] for i in range(20)} == {arm}


def test_the_breaker_of_a_version_that_the_plan_no_longer_names_is_no_longer_open() -> None:
    def open_breakers() -> float | None:
        return REGISTRY.get_sample_value("serving_breakers_open", {"model": "broken"})

    router = Router(lambda model, version: True, random.Random(0), lambda: 0.0)
    for version in (2, 3):
        for _ in range(100):
            router.served("broken", version, failed=True)
    assert open_breakers() == 2

    router.forget(a_tested_plan("broken", version=3))
    assert open_breakers() == 1
    router.forget(a_plan("broken"))
    assert open_breakers() == 0


def test_a_plan_that_takes_traffic_from_a_version_waits_for_its_champion_only() -> None:
    taken = an_experiment(version=2, weight=100)
    new = an_experiment("new", version=3, first=500, weight=100)
    followed = a_plan_of([taken])

    assert newly_served(a_plan_of([taken, new]), followed) == {3: DIGESTS[3]}
    for rolled_back in ([new], [new, an_experiment(version=2, weight=99)], [new, Experiment("test", 2, "x", 100)]):
        assert newly_served(a_plan_of(rolled_back), followed) == {}
        moved = replace(a_plan_of(rolled_back), champion=4, champion_digest="four")
        assert newly_served(moved, followed) == {4: "four"}


# exploration


def test_explored_lists_have_their_share_and_every_propensity_is_how_often_it_comes(asker: Asker) -> None:
    follow(asker, a_plan(explore_share=300, explore_depth=8))

    answers = [asker.ask(unit=f"user-{i}", top_k=4, features={"match": [0.25] * len(ITEMS)}) for i in range(800)]

    events = asker.events_of(answers)
    seen = Counter((at, item) for event in events for at, item in enumerate(event.items))
    ranked = ITEMS[::-1]
    swaps = 4 * 8 - 4
    assert within(sum(event.explored for event in events), 800, 0.3)
    assert {item for event in events for item in event.items} == set(ranked[:8])
    for event in events:
        moved = [(at, item) for at, item in enumerate(event.items) if item != ranked[at]]
        assert 1 <= len(moved) <= 2 if event.explored else not moved
        assert [LENGTHS[item] for item in event.items] == event.feature_matrix()[:, 0].tolist()
        assert [LENGTHS[item] + 0.25 for item in event.items] == event.score_array().tolist()
        for at, (item, told) in enumerate(zip(event.items, event.propensity_array().tolist(), strict=True)):
            assert within(seen[at, item], 800, told), (at, item, told)
    unexplored = next(event for event in events if not event.explored)
    assert unexplored.propensity_array() == pytest.approx([1 - 0.3 * (8 - 1 + 4 - 1) / swaps] * 4)


def test_challengers_explore_too_and_testers_do_not(asker: Asker) -> None:
    ann = Override("ann", 2, DIGESTS[2])
    follow(asker, a_plan_of([an_experiment(weight=1000)], overrides=(ann,), explore_share=1000))

    by_challenger, by_tester = asker.events_of([asker.ask(unit="bob"), asker.ask(unit="ann")])

    assert (by_challenger.arm, by_challenger.explored) == ("challenger", True)
    assert (by_tester.arm, by_tester.explored, set(by_tester.propensity_array())) == ("outside", False, {1.0})


@pytest.mark.parametrize(("candidates", "top_k"), [(1, 1), (2, 1), (2, 2), (3, 1), (25, 25)])
def test_lists_of_any_length_can_be_explored(asker: Asker, candidates: int, top_k: int) -> None:
    follow(asker, a_plan(explore_share=1000, explore_depth=2))

    answers = [asker.ask(candidates=ITEMS[:candidates], top_k=top_k) for _ in range(10)]

    for event in asker.events_of(answers):
        assert len(event.items) == len(set(event.items)) == top_k
        assert event.explored == (candidates > 1)
        assert (event.propensity_array() > 0).all()


def test_a_propensity_is_logged_for_every_exposure_of_every_arm(asker: Asker) -> None:
    follow(
        asker,
        a_plan_of(
            [an_experiment("ab", 2, 300), an_experiment("drafts", 3, 300, first=300, kind="interleaving")],
            [an_experiment("other", 2, 300)],
            explore_share=100,
        ),
    )

    answers = [asker.ask(unit=f"user-{i}") for i in range(150)]

    events = asker.events_of(answers)
    assert {event.arm for event in events} == {"champion", "challenger", "interleaved", "outside"}
    for event in events:
        told = event.propensity_array()
        assert len(told) == len(event.items) == len(event.score_array())
        assert ((told > 0) & (told <= 1)).all()


# mirror


def mirrored_total(outcome: str) -> float:
    labels = {"model": "codesearch", "outcome": outcome}
    return REGISTRY.get_sample_value("serving_mirrored_queries_total", labels) or 0.0


def test_a_share_of_the_champions_answers_is_mirrored_with_both_lists(asker: Asker) -> None:
    plan = follow(asker, a_plan_of([an_experiment(weight=300, mirror_share=400)]))
    before = len(asker.mirrored())

    answers = [asker.ask(unit=f"user-{i}", top_k=3) for i in range(400)]

    mirrored = asker.mirrored()[before:]
    champions = {answer["ranking_id"]: answer for answer in answers if answer["arm"] == "champion"}
    assert within(len(mirrored), len(champions), 0.4)
    assert len({event.event_id for event in mirrored}) == len({event.ranking_id for event in mirrored}) == len(mirrored)
    for event in mirrored:
        answer = champions[event.ranking_id]
        assert list(event.items) == [item["id"] for item in answer["items"]]
        assert event.score_array().tolist() == [item["score"] for item in answer["items"]]
        assert list(event.mirror_items) == ITEMS[:3]
        assert event.mirror_score_array().tolist() == [-(LENGTHS[item] + 0.5) for item in ITEMS[:3]]
        assert (event.champion, event.version, event.experiment, event.error) == (1, 2, "test", "")
        assert (event.plan_revision, event.candidates) == (plan.revision, len(ITEMS))
        assert event.mirror_latency_ms > 0
        assert event.latency_ms == answer["stages_ms"]["total"]


def test_a_mirror_that_hangs_holds_up_no_answer_and_is_bounded() -> None:
    hanging = Held(Turned())
    plan = a_plan_of([an_experiment(mirror_share=1000)])
    full = mirrored_total("dropped_full")
    with asked(
        loader(holds=[1]), loader({2: hanging}, holds=[2]), plan=plan, max_mirrored=8, mirror_deadline_ms=60_000
    ) as (asker, _):
        try:
            answers = [asker.ask(unit=f"user-{i}") for i in range(100)]

            assert all(is_by_champion(answer) and answer["arm"] == "champion" for answer in answers)
            assert hanging.working.is_set()
            assert not hanging.let_go.is_set()  # all were answered while the first mirrored one hung
            asker.gateway.turn()
            assert asker.gateway.mirror.in_flight <= 8
            dropped = mirrored_total("dropped_full") - full
            assert dropped > 0
        finally:
            hanging.let_go.set()
        # a replica that says nothing for long is given up, which makes room for others
        assert len(asker.mirrored()) == 100 - dropped


def test_a_mirror_that_fails_or_is_late_or_away_is_logged_with_the_reason() -> None:
    plan = a_plan_of([an_experiment("failing", 2, mirror_share=1000), an_experiment("late", 3, mirror_share=1000)])
    hanging = Held(Turned())
    held_by = (loader(holds=[1]), loader({2: Broken()}, holds=[2]), loader({3: hanging}, holds=[3]))
    with asked(*held_by, plan=plan, mirror_deadline_ms=50) as (asker, replicas):
        try:
            answer = asker.ask(unit="ann")
            mirrored = asker.mirrored()
        finally:
            hanging.let_go.set()

        assert {event.experiment: event.error[:4] for event in mirrored} == {"failing": "500:", "late": "504:"}
        assert {event.mirror_items for event in mirrored} == {()}
        assert answer["arm"] == "champion"

        replicas[1].stop()
        asker.gateway.until(lambda: not asker.gateway.pool.fleet.has("codesearch", 2))
        answer = asker.ask(unit="ann")
        reasons = {
            event.experiment: event.error for event in asker.mirrored() if event.ranking_id == answer["ranking_id"]
        }
        assert reasons["failing"] == "503: no replica holds codesearch@2"
        replicas[1].start()


def test_nothing_is_mirrored_while_over_half_of_the_permits_are_taken() -> None:
    busy = mirrored_total("dropped_busy")
    with asked(plan=a_plan_of([an_experiment(mirror_share=1000)]), max_in_flight=4) as (asker, _):
        gateway = asker.gateway
        taken = [gateway.permits.take("codesearch") for _ in range(3)]
        assert asker.ask(unit="ann")["arm"] == "champion"
        gateway.until(lambda: mirrored_total("dropped_busy") - busy == 1)
        assert asker.mirrored() == []

        for one in taken:
            gateway.loop.call_soon_threadsafe(gateway.permits.give, one, None)
        assert asker.ask(unit="ann")["arm"] == "champion"
        assert len(asker.mirrored()) == 1


def test_explored_lists_are_not_mirrored(asker: Asker) -> None:
    follow(asker, a_plan_of([an_experiment(mirror_share=1000)], explore_share=500))
    before = len(asker.mirrored())

    answers = [asker.ask(unit=f"user-{i}") for i in range(60)]

    explored = {event.ranking_id for event in asker.events_of(answers) if event.explored}
    assert {event.ranking_id for event in asker.mirrored()[before:]} == {
        answer["ranking_id"] for answer in answers
    } - explored


# tensors


def test_tensor_requests_are_routed_by_the_same_arms_and_drafted_units_get_the_champions(asker: Asker) -> None:
    rows = {"name": "features", "shape": [1, 3], "datatype": "FP32", "data": [1.0, 2.0, 3.0]}
    scores = {}
    for kind, arm in (("ab", "challenger"), ("interleaving", "outside")):
        plan = follow(asker, a_plan_of([an_experiment(weight=1000, kind=kind)]))
        response = asker.post_to("/v2/models/codesearch/infer", {"inputs": [rows], "parameters": {"unit": "ann"}})
        assert response.status_code == 200, response.text
        scores[arm] = response.json()["outputs"][0]["data"]
        assert asker.counted()[plan.revision, "test" if kind == "ab" else "", arm].answered == 1

    assert scores == {"challenger": [-6.0], "outside": [6.0]}


# counters


def test_counters_by_arm_are_what_was_answered(asker: Asker) -> None:
    plan = follow(asker, a_plan_of([an_experiment(weight=400)]))
    whole = {"query": {"features": {"query_words": 1.0}}, "features": {"match": [0.5] * len(ITEMS)}}

    answers = [asker.ask(unit=f"user-{i}", **(whole if i % 2 else {})) for i in range(40)]
    refused = [asker.post(unit=f"user-{i}", query={"features": {"nope": 1.0}}).status_code for i in range(40)]

    assert set(refused) == {400}
    arms = Counter(answer["arm"] for answer in answers)
    degraded = Counter(answer["arm"] for answer in answers if answer["degraded"])
    for arm, experiment in (("champion", ""), ("challenger", "test")):
        found = asker.counted()[plan.revision, experiment, arm]
        assert (found.answered, found.degraded) == (arms[arm], degraded[arm])
        assert sum(found.latency) == found.answered
        assert (found.refused, found.failed) == (arms[arm], 0)


def test_what_the_worker_fails_is_counted_as_failed() -> None:
    with asked(loader({2: Broken()}), plan=a_tested_plan(weight=1000)) as (asker, _):
        answers = [asker.ask(unit="ann") for _ in range(3)]

        assert all(is_by_champion(one) and "challenger_away" in one["degraded"] for one in answers)
        counted = asker.counted()[1, "test", "challenger"]
        assert (counted.failed, counted.away, counted.degraded) == (0, 3, 3)

    with asked(loader({1: Broken()})) as (asker, _):
        assert [asker.post().status_code for _ in range(3)] == [500] * 3
        assert asker.counted()[1, "", "champion"].failed == 3


def test_experiments_beyond_a_bound_share_one_label_in_prometheus_and_are_apart_on_the_board() -> None:
    counts = ArmCounts()
    for number in range(MAX_EXPERIMENT_LABELS + 10):
        counts.of("many", 1, f"experiment-{number}", "challenger", "challenger").answered(0.004, degraded=True)
    counts.flush()

    def answered(experiment: str) -> float | None:
        labels = {"model": "many", "experiment": experiment, "arm": "challenger", "outcome": "answered"}
        return REGISTRY.get_sample_value("serving_arm_answers_total", labels)

    assert (answered("experiment-0"), answered("other")) == (1.0, 10.0)
    assert answered(f"experiment-{MAX_EXPERIMENT_LABELS}") is None
    seconds = {"model": "many", "experiment": "other", "arm": "challenger"}
    assert REGISTRY.get_sample_value("serving_arm_seconds_bucket", seconds | {"le": "0.004"}) == 10.0
    assert REGISTRY.get_sample_value("serving_arm_seconds_bucket", seconds | {"le": "0.002"}) == 0.0
    assert REGISTRY.get_sample_value("serving_arm_degraded_answers_total", seconds) == 10.0
    assert len(counts.snapshot("gateway", NOW_MS).arms) == MAX_EXPERIMENT_LABELS + 10


def test_counts_are_published_and_those_of_old_revisions_go() -> None:
    counts, board = ArmCounts(), MemoryCounterBoard()
    for revision in range(1, KEPT_REVISIONS + 3):
        counts.of("codesearch", revision, "", "champion", "champion").answered(0.004, degraded=False)
    publisher = CounterPublisher(counts, board, "gateway-0:1:2", period_s=0.01, wall_ms=lambda: NOW_MS)
    publisher.start()
    publisher.stop()

    [snapshot] = board.read().values()

    assert (snapshot.process, snapshot.at_ms) == ("gateway-0:1:2", NOW_MS)
    assert [one.plan_revision for one in snapshot.arms] == list(range(3, KEPT_REVISIONS + 3))
    assert {one.answered for one in snapshot.arms} == {1}


def test_what_failed_fifty_plans_ago_still_counts() -> None:
    counts = ArmCounts()
    counts.of("codesearch", 4, "rollout-2", "challenger", "challenger").not_answered(500)
    for revision in range(5, 55):
        counts.of("codesearch", revision, "rollout-2", "challenger", "challenger").answered(0.004, degraded=False)

    assert sum(one.failed for one in counts.snapshot("gateway", NOW_MS).arms) == 1


def test_the_champion_against_itself_has_arms_drafts_and_fresh_coins_of_its_own(asker: Asker) -> None:
    """An A/A goes the way that any experiment goes: what it measures is what would be measured."""
    same = (
        an_experiment("aa-ab", 1, 300),
        an_experiment("aa-drafts", 1, 300, first=300, kind="interleaving"),
    )
    plan = follow(asker, a_plan_of(same, revision=2))
    units = [f"user-{i}" for i in range(200)]
    answers = [asker.ask(unit=unit, top_k=6) for unit in units]
    events = asker.events_of(answers)

    for unit, answer, event in zip(units, answers, events, strict=True):
        assigned = plan.assign(unit)
        assert (answer["arm"], answer["version"]) == (assigned.arm, 1)
        assert event.experiment == (assigned.experiment.name if assigned.experiment else "")
    arms = Counter(answer["arm"] for answer in answers)
    assert set(arms) == {"champion", "challenger", "interleaved"}
    drafted = [event for event in events if event.arm == "interleaved"]
    assert {event.team_version for event in drafted} == {1}
    assert len({event.teams for event in drafted}) == 8  # three rounds, a coin each
    assert {event.items for event in drafted} == {events[0].items}  # whoever picks, the list is the champion's
    assert (plan.revision, "aa-ab", "challenger") in asker.counted()
