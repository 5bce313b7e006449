"""The breaker: open while over half fails, one probe a backoff, closed by one that is answered."""

from copy import deepcopy

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from serving.breaker import Breaker, BreakerRule, State

RULE = BreakerRule(error_share=0.5, least_outcomes=10, window_s=2.0, backoff_s=1.0, max_backoff_s=3.0)


def an_open_breaker(now_s: float = 0.0) -> Breaker:
    breaker = Breaker(RULE)
    for _ in range(10):
        breaker.count(True, now_s)
    assert breaker.is_open
    return breaker


def test_it_opens_at_more_than_half_of_enough_outcomes() -> None:
    breaker = Breaker(RULE)
    for failed in [False, True] * 20:
        breaker.count(failed, 0.0)
    assert breaker.lets_through(0.0)

    breaker.count(True, 0.0)
    assert not breaker.lets_through(0.0)

    few = Breaker(RULE)
    for _ in range(9):
        few.count(True, 0.0)
    assert few.lets_through(0.0)


def test_failures_long_ago_do_not_count() -> None:
    breaker = Breaker(RULE)
    for second in range(0, 100, 4):  # nine failures, then nothing for two windows
        for _ in range(9):
            breaker.count(True, float(second))

    assert not breaker.is_open


def test_failures_of_the_window_before_count() -> None:
    breaker = Breaker(RULE)
    for now_s in (0.0, 2.0):
        for _ in range(5):
            breaker.count(True, now_s)

    assert breaker.is_open


def test_one_query_a_backoff_is_let_through() -> None:
    breaker = an_open_breaker()

    assert [breaker.lets_through(now_s) for now_s in (0.5, 1.0, 1.1, 1.9, 2.0, 2.1)] == [
        *(False, True, False),
        *(False, True, False),
    ]


def test_a_probe_that_is_answered_closes_it_and_the_count_begins_anew() -> None:
    breaker = an_open_breaker()
    assert breaker.lets_through(1.0)
    breaker.count(False, 1.1)

    assert all(breaker.lets_through(1.2) for _ in range(5))
    for _ in range(9):
        breaker.count(True, 1.3)
    assert breaker.lets_through(1.3)


def test_probes_that_fail_double_the_backoff_up_to_its_limit() -> None:
    breaker, now_s, waited = an_open_breaker(), 0.0, []
    for _ in range(4):
        began_s = now_s
        while not breaker.lets_through(now_s):
            now_s += 0.25
        waited.append(now_s - began_s)
        breaker.count(True, now_s)

    assert waited == [1.0, 2.0, 3.0, 3.0]


def test_stragglers_change_nothing() -> None:
    breaker = an_open_breaker()
    for failed in (True, True, False, True):
        breaker.count(failed, 0.5)

    assert breaker.is_open
    assert breaker.lets_through(1.0)


def test_queries_that_are_sent_without_asking_are_probes_once_the_backoff_is_over() -> None:
    breaker = an_open_breaker()
    breaker.count(True, 1.0)
    breaker.count(False, 2.9)  # the backoff has doubled
    assert breaker.is_open

    breaker.count(False, 3.0)
    assert not breaker.is_open


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens to a breaker, held against a list of what happened."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker, self.now_s = Breaker(RULE), 0.0
        self.since_closed: list[tuple[float, bool]] = []
        self.opened_s, self.let_through_s = 0.0, float("-inf")

    @rule(passed_s=st.floats(0, 5))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule(failed=st.lists(st.booleans(), min_size=1, max_size=12))
    def queries_end_while_it_is_closed(self, failed: list[bool]) -> None:
        for one in failed:
            if self.breaker.is_open:
                return
            self.breaker.count(one, self.now_s)
            self.since_closed.append((self.now_s, one))
            if self.breaker.is_open:
                self._check_it_opened_for_a_reason()
                self.opened_s = self.now_s

    def _check_it_opened_for_a_reason(self) -> None:
        recent = [failed for when_s, failed in self.since_closed if when_s > self.now_s - 2 * RULE.window_s]
        assert len(recent) >= RULE.least_outcomes
        # of the window and the one before, which both lie within these two
        assert sum(recent) > RULE.error_share * RULE.least_outcomes

    @rule(failed=st.booleans())
    def a_query_asks_and_ends(self, failed: bool) -> None:
        was = self.breaker.state
        if not self.breaker.lets_through(self.now_s):
            assert was is not State.CLOSED
            assert self.now_s < max(self.opened_s, self.let_through_s) + RULE.max_backoff_s
            return
        if was is State.CLOSED:
            return
        assert (
            self.now_s - max(self.opened_s, self.let_through_s) >= RULE.backoff_s
        )  # one a backoff, the first after one
        assert self.breaker.state is State.HALF_OPEN
        self.let_through_s = self.now_s
        self.breaker.count(failed, self.now_s)
        if failed:
            assert self.breaker.state is State.OPEN
        else:
            assert self.breaker.state is State.CLOSED
            self.since_closed.clear()

    @invariant()
    def it_lets_everybody_through_exactly_while_it_is_closed(self) -> None:
        if self.breaker.state is State.CLOSED:
            assert self.breaker.lets_through(self.now_s)
        assert self.breaker.is_open == (self.breaker.state is not State.CLOSED)

    @invariant()
    def nobody_waits_longer_for_a_probe_than_the_longest_backoff(self) -> None:
        if self.breaker.is_open:
            assert deepcopy(self.breaker).lets_through(self.now_s + RULE.max_backoff_s)


TestAnyHistory = AnyHistory.TestCase
