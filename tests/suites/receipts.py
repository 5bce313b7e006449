"""What every control does with receipts: a request under an idempotency key changes things once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from registry.decisions import Decision
from registry.errors import AnsweredBefore, StaleRevision
from registry.receipts import Receipt
from registry.rollouts import RolloutControl
from tests.builders import NOW_MS, a_plan


def a_receipt(key: str = "k1", caller: str = "ann", **changes: Any) -> Receipt:
    fields: dict[str, Any] = {"route": "promote", "digest": "0" * 64, "status": 200, "response": "{}", "at_ms": NOW_MS}
    return Receipt(caller, key, **(fields | changes))


def decide(control: RolloutControl, revision: int, receipt: Receipt | None, champion: int = 1) -> None:
    plan = a_plan(revision=revision, champion=champion)
    control.decide(Decision("ann", "better", NOW_MS, plan=plan, receipt=receipt))


class ReceiptSuite:
    """Subclasses supply the fixture `control`, empty."""

    def test_a_receipt_comes_with_its_change(self, control: RolloutControl) -> None:
        assert control.receipt("ann", "k1") is None

        decide(control, 1, a_receipt())

        assert control.receipt("ann", "k1") == a_receipt()
        assert control.receipt("bob", "k1") is control.receipt("ann", "k2") is None

    def test_a_key_makes_one_change(self, control: RolloutControl) -> None:
        decide(control, 1, a_receipt())

        with pytest.raises(AnsweredBefore, match="'k1'"):
            decide(control, 2, a_receipt(response='{"other": 1}'), champion=2)

        assert control.plan("codesearch") == a_plan(champion=1)
        assert len(control.history("codesearch")) == 1
        assert control.receipt("ann", "k1") == a_receipt()

    def test_a_change_that_is_refused_leaves_no_receipt(self, control: RolloutControl) -> None:
        decide(control, 1, None)

        with pytest.raises(StaleRevision):
            decide(control, 7, a_receipt())

        assert control.receipt("ann", "k1") is None

    def test_a_refusal_is_kept_once(self, control: RolloutControl) -> None:
        first = control.keep_receipt(a_receipt(status=409))

        assert control.keep_receipt(a_receipt(status=404)) == first == control.receipt("ann", "k1")
        with pytest.raises(AnsweredBefore):
            decide(control, 1, a_receipt())
        assert control.plan("codesearch") is None

    def test_old_receipts_are_forgotten(self, control: RolloutControl) -> None:
        control.keep_receipt(a_receipt("old", at_ms=NOW_MS - 1))
        control.keep_receipt(a_receipt("new"))

        assert (control.forget_receipts(NOW_MS), control.forget_receipts(NOW_MS)) == (1, 0)
        assert control.receipt("ann", "old") is None
        assert control.receipt("ann", "new") is not None

    def test_of_those_who_bring_the_same_key_at_once_one_changes_something(self, control: RolloutControl) -> None:
        def attempt(champion: int) -> bool:
            try:
                decide(control, 1, a_receipt(response=str(champion)), champion)
            except (AnsweredBefore, StaleRevision):
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(attempt, range(1, 17)))

        plan, receipt = control.plan("codesearch"), control.receipt("ann", "k1")
        assert plan is not None and receipt is not None
        assert (sum(won), str(plan.champion)) == (1, receipt.response)
