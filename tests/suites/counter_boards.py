"""What every counter board does: it shows the newest snapshot of every process, also of one that is gone."""

from concurrent.futures import ThreadPoolExecutor

from registry.contracts.counters import CounterSnapshot
from registry.counters import CounterBoard
from tests.builders import NOW_MS, an_arm


def a_snapshot(process: str = "gateway-0:1:2", at_ms: int = NOW_MS, answered: int = 3) -> CounterSnapshot:
    return CounterSnapshot(process, at_ms, (an_arm(answered=answered), an_arm("challenger", answered=1)))


class CounterBoardSuite:
    """Subclasses supply the fixture `counters`, an empty one."""

    def test_a_new_board_is_empty(self, counters: CounterBoard) -> None:
        assert counters.read() == {}

    def test_processes_are_apart_and_a_newer_snapshot_replaces_the_process_s_own(self, counters: CounterBoard) -> None:
        counters.publish(a_snapshot("gateway-0:1:2"))
        counters.publish(a_snapshot("gateway-1:1:2"))
        counters.publish(a_snapshot("gateway-0:1:2", NOW_MS + 1000, answered=9))

        assert counters.read() == {
            "gateway-0:1:2": a_snapshot("gateway-0:1:2", NOW_MS + 1000, answered=9),
            "gateway-1:1:2": a_snapshot("gateway-1:1:2"),
        }

    def test_a_restarted_process_takes_nothing_away(self, counters: CounterBoard) -> None:
        counters.publish(a_snapshot("gateway-0:1:2", answered=100))
        counters.publish(a_snapshot("gateway-0:7:9", answered=1))

        assert sum(arm.answered for snapshot in counters.read().values() for arm in snapshot.arms) == 100 + 1 + 2

    def test_what_is_old_is_forgotten_and_nothing_else(self, counters: CounterBoard) -> None:
        counters.publish(a_snapshot("old", NOW_MS - 1))
        counters.publish(a_snapshot("new", NOW_MS))

        assert counters.forget(NOW_MS) == 1
        assert counters.forget(NOW_MS) == 0
        assert set(counters.read()) == {"new"}

    def test_many_processes_publish_at_once(self, counters: CounterBoard) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: counters.publish(a_snapshot(f"gateway-{i % 8}", NOW_MS + i)), range(40)))

        assert len(counters.read()) == 8
