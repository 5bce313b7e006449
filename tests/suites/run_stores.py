"""What every store of runs does: one run a window, one at work at a time, compare-and-set, receipts."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from msgspec.structs import replace

from registry import run_moves
from registry.contracts.runs import Run
from registry.errors import AnsweredBefore, RunConflict, StaleRun, UnknownRun, WindowTaken
from registry.receipts import Receipt
from registry.runs import RunStore, edit
from tests.builders import NOW_MS, a_run

LEASE_MS = 10_000
DAY_MS = 86_400_000


def a_receipt(key: str = "k1") -> Receipt:
    return Receipt("ann", key, "retrain", "0" * 64, 202, "{}", NOW_MS)


def claimed(run: Run, holder: str = "w1", now_ms: int = NOW_MS) -> Run:
    return run_moves.claim(run, holder, now_ms=now_ms, lease_ms=LEASE_MS)


class RunStoreSuite:
    """Subclasses supply the fixture `store`, empty."""

    def test_a_run_is_kept_as_it_is(self, store: RunStore) -> None:
        run = store.add(a_run())

        assert store.run(run.id) == run
        assert store.runs() == store.runs("codesearch", kind="retrain", states=("queued",)) == [run]
        assert store.runs("other") == store.runs(kind="collect") == store.runs(states=("dead", "failed")) == []

    def test_a_run_that_is_not_there_is_named(self, store: RunStore) -> None:
        with pytest.raises(UnknownRun, match=r"'codesearch\.x'"):
            store.run("codesearch.x")
        with pytest.raises(UnknownRun):
            store.change(replace(a_run(), revision=2))

    def test_a_window_has_one_run_of_a_kind(self, store: RunStore) -> None:
        first = store.add(a_run())

        with pytest.raises(WindowTaken, match=first.id) as refused:
            store.add(a_run(now_ms=NOW_MS + 1))
        assert refused.value.run_id == first.id
        store.add(a_run(kind="collect"))
        store.add(a_run(model="other"))
        store.add(a_run(until_ms=first.until_ms + 1))
        assert len(store.runs()) == 4

    def test_a_void_run_frees_its_window(self, store: RunStore) -> None:
        first = store.add(a_run())
        store.change(run_moves.void(first, now_ms=NOW_MS))

        second = store.add(a_run(now_ms=NOW_MS + 1))

        assert store.run(second.id).state == "queued"
        with pytest.raises(WindowTaken):
            store.add(a_run(now_ms=NOW_MS + 2))

    def test_of_many_who_ask_for_a_window_at_once_one_gets_it(self, store: RunStore) -> None:
        def ask(who: int) -> bool:
            try:
                store.add(a_run(now_ms=NOW_MS + who))
            except WindowTaken:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(ask, range(8))) == 1
        assert len(store.runs()) == 1

    def test_a_change_is_made_on_the_revision_that_was_seen(self, store: RunStore) -> None:
        run = store.add(a_run())
        mine = store.change(claimed(run, "w1"))

        with pytest.raises(StaleRun) as refused:
            store.change(claimed(run, "w2"))
        assert (refused.value.expected, refused.value.actual) == (1, 2)
        assert store.run(run.id) == mine

    def test_of_many_who_take_a_run_up_at_once_one_gets_it(self, store: RunStore) -> None:
        run = store.add(a_run())

        def take(who: int) -> bool:
            try:
                store.change(claimed(run, f"w{who}"))
            except StaleRun:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(take, range(8))) == 1
        assert store.run(run.id).lease == 1

    def test_one_run_of_a_model_and_kind_is_at_work_at_a_time(self, store: RunStore) -> None:
        first = store.change(claimed(store.add(a_run())))
        second = store.add(a_run(until_ms=first.until_ms + DAY_MS))

        with pytest.raises(RunConflict, match=f"{first.id}"):
            store.change(claimed(second))
        store.change(claimed(store.add(a_run(kind="collect"))))
        store.change(claimed(store.add(a_run(model="other"))))
        store.change(run_moves.stopped(first, now_ms=NOW_MS))
        assert store.change(claimed(second)).state == "running"

    def test_the_newest_windows_come_first(self, store: RunStore) -> None:
        ends = [NOW_MS - 3 * DAY_MS, NOW_MS - DAY_MS, NOW_MS - 2 * DAY_MS]
        for created, until_ms in enumerate(ends):
            store.add(a_run(until_ms=until_ms, now_ms=NOW_MS + created))

        assert [run.until_ms for run in store.runs()] == sorted(ends, reverse=True)
        assert [run.until_ms for run in store.runs(newest=1)] == [max(ends)]

    def test_an_edit_is_made_again_on_what_somebody_quicker_left(self, store: RunStore) -> None:
        run = store.change(claimed(store.add(a_run())))
        words: dict[str, Any] = {"who": "ann", "why": "wrong data", "now_ms": NOW_MS, "lease_ms": LEASE_MS}
        quicker = iter([True])

        def cancel(found: Run) -> Run:
            if next(quicker, False):
                store.change(run_moves.beat(found, 0.5, "half", now_ms=NOW_MS, lease_ms=LEASE_MS))
            return run_moves.cancel(found, **words)

        edited = edit(store, run.id, cancel)

        assert (edited.cancelling, edited.step.progress, edited.revision) == (True, 0.5, 4)

    def test_a_receipt_comes_with_its_change_and_only_once(self, store: RunStore) -> None:
        run = store.add(a_run(), a_receipt("k1"))

        with pytest.raises(AnsweredBefore):
            store.add(a_run(until_ms=run.until_ms + DAY_MS), a_receipt("k1"))
        with pytest.raises(AnsweredBefore):
            store.change(claimed(run), a_receipt("k1"))
        assert store.runs() == [run]
        assert store.change(claimed(run), a_receipt("k2")).revision == 2
