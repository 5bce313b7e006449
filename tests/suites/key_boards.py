"""What every board of API keys does: it shows the newest sheet, whole."""

from registry.key_sheet import KeyBoard, KeySheet, SheetKey
from registry.principals import Principal


def a_sheet(revision: int = 1, *names: str) -> KeySheet:
    return KeySheet(revision, tuple(SheetKey(name * 64, Principal(name, name, "caller", ("é",))) for name in names))


class KeyBoardSuite:
    """Subclasses supply the fixture `board`, an empty one."""

    def test_a_new_board_shows_nothing(self, board: KeyBoard) -> None:
        assert (board.read(), board.tag(), board.used_ms()) == (None, "", {})

    def test_it_shows_the_sheet_to_those_who_do_not_know_it(self, board: KeyBoard) -> None:
        assert board.publish(a_sheet(1, "a", "b"))
        posted = board.read()
        assert posted is not None

        assert posted.sheet == a_sheet(1, "a", "b")
        assert posted.tag == board.tag()
        assert board.read(posted.tag) is None

    def test_a_newer_sheet_replaces_it_whole(self, board: KeyBoard) -> None:
        board.publish(a_sheet(1, "a", "b"))
        known = board.tag()
        board.publish(a_sheet(2, "b"))
        posted = board.read(known)

        assert posted is not None and posted.sheet == a_sheet(2, "b")

    def test_a_late_publisher_replaces_nothing_unless_it_insists(self, board: KeyBoard) -> None:
        board.publish(a_sheet(5, "a"))
        assert not board.publish(a_sheet(4, "b"))
        posted = board.read()
        assert posted is not None and posted.sheet == a_sheet(5, "a")

        assert board.publish(a_sheet(4, "b"), force=True)
        posted = board.read(posted.tag)
        assert posted is not None and posted.sheet == a_sheet(4, "b")

    def test_the_last_use_is_kept_by_key(self, board: KeyBoard) -> None:
        board.note_used({"a": 1, "b": 2})
        board.note_used({"b": 3})

        assert board.used_ms() == {"a": 1, "b": 3}
