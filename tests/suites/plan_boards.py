"""What every plan board does: it shows the highest revision of every model."""

from concurrent.futures import ThreadPoolExecutor

from registry.board import PlanBoard
from tests.builders import a_plan, a_tested_plan


class PlanBoardSuite:
    """Subclasses supply the fixture `board`, an empty one."""

    def test_a_new_board_is_empty(self, board: PlanBoard) -> None:
        assert board.read() == {}

    def test_it_shows_every_model_s_plan(self, board: PlanBoard) -> None:
        one = a_tested_plan("one", weight=100, salt="é")
        board.publish(one)
        board.publish(a_plan("two"))

        assert board.read() == {"one": one, "two": a_plan("two")}

    def test_a_higher_revision_replaces_a_lower_one(self, board: PlanBoard) -> None:
        board.publish(a_plan(revision=9, champion=1))
        board.publish(a_plan(revision=10, champion=2))

        assert board.read()["codesearch"].champion == 2

    def test_a_late_publisher_replaces_nothing(self, board: PlanBoard) -> None:
        board.publish(a_plan(revision=10, champion=2))
        board.publish(a_plan(revision=9, champion=1))

        assert board.read()["codesearch"].champion == 2

    def test_a_model_is_held_back_until_it_is_wanted_again(self, board: PlanBoard) -> None:
        board.publish(a_plan("one", revision=7))
        assert board.held_back() == frozenset()

        for _ in range(2):
            board.hold("one", wanted=False)
            board.hold("é, not planned yet", wanted=False)
        assert board.held_back() == {"one", "é, not planned yet"}
        assert board.read() == {"one": a_plan("one", revision=7)}

        for _ in range(2):
            board.hold("one", wanted=True)
        assert board.held_back() == {"é, not planned yet"}
        assert board.read() == {"one": a_plan("one", revision=7)}

    def test_publishing_again_changes_nothing(self, board: PlanBoard) -> None:
        board.publish(a_plan(revision=3))
        board.publish(a_plan(revision=3))

        assert board.read() == {"codesearch": a_plan(revision=3)}

    def test_of_many_publishers_at_once_the_highest_revision_stays(self, board: PlanBoard) -> None:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: board.publish(a_plan(revision=i * 7 % 50, champion=i * 7 % 50)), range(50)))

        assert board.read()["codesearch"] == a_plan(revision=49, champion=49)
