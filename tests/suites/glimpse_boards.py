"""What every glimpse board does: the newest few of each model are there, and nothing else is remembered."""

from registry.glimpse_board import KEPT, GlimpseBoard
from tests.builders import a_glimpse


class GlimpseBoardSuite:
    def test_the_newest_comes_first(self, glimpses: GlimpseBoard) -> None:
        first, second, third = (a_glimpse(f"r{i}") for i in range(3))

        glimpses.publish([first, second])
        glimpses.publish([third])

        assert glimpses.newest("codesearch") == (third, second, first)
        assert glimpses.newest("codesearch", 2) == (third, second)

    def test_models_are_apart(self, glimpses: GlimpseBoard) -> None:
        ours, theirs = a_glimpse("r1"), a_glimpse("r2", model="other")

        glimpses.publish([ours, theirs])

        assert (glimpses.newest("codesearch"), glimpses.newest("other")) == ((ours,), (theirs,))
        assert glimpses.newest("nobody") == ()

    def test_of_many_the_newest_are_kept(self, glimpses: GlimpseBoard) -> None:
        many = [a_glimpse(f"r{i}") for i in range(KEPT + 10)]
        for start in range(0, len(many), 70):
            glimpses.publish(many[start : start + 70])

        assert glimpses.newest("codesearch", 10 * KEPT) == tuple(reversed(many[10:]))

    def test_no_glimpse_is_no_change(self, glimpses: GlimpseBoard) -> None:
        glimpses.publish([])

        assert glimpses.newest("codesearch") == ()
