"""`sluice drift profile`, as it is read."""

import io
import math

import msgspec
from rich.console import Console

from deploy.commands.profile_table import profile_table
from deploy.commands.table import print_whole
from drift.days.reports import DayReport, QuantityDay
from drift.windows.shapes import Shape
from registry.contracts.drift import ShiftRecord
from registry.contracts.profile import ReferenceProfile, no_profile, scale_only
from tests.builders import NOW_MS, a_profile

OF_LISTS = ("scores", "margin", "entropy")


def lines(profile: ReferenceProfile, *days: DayReport) -> list[str]:
    console = Console(width=250)
    with console.capture() as capture:
        console.print(profile_table(profile, days))
    return capture.get().splitlines()


def of_clicks() -> ReferenceProfile:
    """Features as ever, and of lists a scale alone: they hold what was shown."""
    whole = a_profile()
    return msgspec.structs.replace(whole, **{name: scale_only(getattr(whole, name)) for name in OF_LISTS})


def a_day(*, shape: float) -> DayReport:
    record = ShiftRecord(
        *("codesearch", 1, "champion", "confidence", "passed", "", NOW_MS, NOW_MS - 86_400_000, NOW_MS, 9, 500)
    )
    quantity = QuantityDay("ranking:margin", "mean", None, 0.0, mean=0.75, std=0.25)
    return DayReport(record, (quantity,), (Shape("ranking:margin", shape, shape, shape),))


def test_what_clicks_do_not_tell_of_lists_is_a_dash_and_why_stands_below() -> None:
    told = lines(of_clicks())

    rows = {line.split()[0]: line.split()[1:] for line in told if line.startswith("ranking:")}
    assert rows == {f"ranking:{name}": ["-"] * 6 for name in OF_LISTS}
    assert "-: not known. The version's lists hold only what was shown, as lists of clicks do" in "\n".join(told)


def test_what_is_compared_with_nothing_is_a_dash_beside_the_day_s_own_figures() -> None:
    told = lines(of_clicks(), a_day(shape=math.nan))

    (margin,) = [line.split() for line in told if line.startswith("ranking:margin")]
    assert margin[1:] == [*["-"] * 6, "0.75", "0.25", *["-"] * 3]
    assert "nan" not in "".join(told)


def test_a_profile_of_whole_lists_needs_no_dash_and_no_word() -> None:
    told = "\n".join(lines(a_profile(), a_day(shape=0.125)))

    assert "0.125" in told
    assert " - " not in told
    assert "not known" not in told


def test_every_name_and_figure_is_whole_where_output_is_narrow() -> None:
    profile = a_profile()
    named = msgspec.structs.replace(profile.features[0], name="bm25_of_the_module_s_best_function_and_its_docstring")
    profile = msgspec.structs.replace(profile, features=(named, *profile.features[1:]))
    narrow = Console(width=80, file=io.StringIO())

    with narrow.capture() as capture:
        print_whole(narrow, profile_table(profile, [a_day(shape=0.125)]))

    assert capture.get().splitlines() == lines(profile, a_day(shape=0.125))
    assert named.name in capture.get() and "…" not in capture.get()
    assert narrow.width == 80


def test_of_a_model_without_a_view_nothing_was_profiled_and_clicks_are_not_why() -> None:
    assert "shown" not in "\n".join(lines(no_profile()))
