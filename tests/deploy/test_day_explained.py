"""A closed day is held against those before from the archive, and what tells it apart is named."""

import io
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from typer.testing import CliRunner

from deploy.commands.drift import drift
from deploy.commands.drift_explain import print_explained
from deploy.errors import SluiceError
from deploy.verdicts.day_explained import DayExplained, DayExplainer
from drift.days.reports import DayReport, DayReports
from drift.errors import NothingToExplain
from drift.joint.two_sample import JointSettings
from pipelines.archive.files import Archive
from registry.contracts.events import RankingEvent, encode_event, join_events
from registry.contracts.profile import ReferenceProfile
from registry.stream import StreamEntry
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.deploy.drifted_season import BROKEN as BROKEN_IN_SEASON
from tests.deploy.drifted_season import DAYS as DAYS_OF_SEASON
from tests.deploy.drifted_season import DriftedSeason, day_ms
from tests.drift.traffic import PROFILE, rankings

DAY_MS = 86_400_000
DAYS, LISTS = 5, 120
BROKEN = DAYS - 1
SETTINGS = JointSettings(most_lists=100, trees=12, permutations=499)


def a_day(number: int) -> list[RankingEvent]:
    moved = {"of_item": 1.5} if number >= BROKEN else None
    return rankings(700 + number, LISTS, moved, NOW_MS + number * DAY_MS, DAY_MS // LISTS)


def write(archive: Archive, number: int, events: list[RankingEvent]) -> None:
    archive.write([StreamEntry(f"{NOW_MS + number}-0", join_events([encode_event(event) for event in events]))])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Days of the champion, the last of them broken and alarmed on; beside it a tester's version, which is not it."""
    folder = tmp_path_factory.mktemp("days")
    archive, days = Archive(folder / "archive"), DayReports(folder / "drift")
    for number in range(DAYS):
        write(archive, number, a_day(number))
        since_ms = NOW_MS + number * DAY_MS
        alarms = (a_shift_alarm("of_item", onset_ms=since_ms),) if number == BROKEN else ()
        record = a_shift_record(since_ms=since_ms, until_ms=since_ms + DAY_MS, alarms=alarms)
        days.write(DayReport(record, ()))
    strange = [msgspec.structs.replace(e, ranking_id=f"x{e.ranking_id}", arm="outside") for e in a_day(BROKEN)]
    write(archive, 99, [msgspec.structs.replace(e, answered_ms=NOW_MS + i) for i, e in enumerate(strange)])
    return folder


def explainer(home: Path, profile: ReferenceProfile | None = PROFILE) -> DayExplainer:
    return DayExplainer(Archive(home / "archive"), DayReports(home / "drift"), lambda model, version: profile, SETTINGS)


def explained(home: Path, number: int | None = None) -> DayExplained:
    since_ms = None if number is None else NOW_MS + number * DAY_MS
    return explainer(home).explain("codesearch", "champion", since_ms, lambda done, of: None)


def test_the_newest_day_is_explained_by_what_broke_on_it(home: Path) -> None:
    found = explained(home)

    assert found.day == NOW_MS + BROKEN * DAY_MS
    assert found.before == tuple(NOW_MS + number * DAY_MS for number in range(BROKEN))
    assert found.explanation.is_unusual
    assert found.explanation.named[0].feature == "of_item"
    assert found.explanation.named[0].shift == pytest.approx(1.5 / PROFILE.features[0].std, abs=0.4)
    assert explained(home) == found
    console = Console(file=io.StringIO(), width=140)
    print_explained(console, found)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "of_item" in text and "earlier days among each other" in text and "told apart: AUC 0." in text


def test_a_quiet_day_is_no_more_different_than_days_are(home: Path) -> None:
    found = explained(home, BROKEN - 1)

    assert found.before == tuple(NOW_MS + number * DAY_MS for number in range(BROKEN - 1))
    assert not found.explanation.is_unusual
    console = Console(file=io.StringIO(), width=140)
    print_explained(console, found)
    assert "no more different than days are" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_command_explains_a_day_out_of_the_data_folder(tmp_path: Path) -> None:
    """Archive, closed days and profile as the platform's own processes write them; the last two days are broken."""
    DriftedSeason.written(tmp_path)
    runner = CliRunner(env={"SLUICE_HOME": str(tmp_path)})

    shown = runner.invoke(drift, ["explain", "codesearch", "--json"])
    refused = runner.invoke(drift, ["explain", "codesearch", "--arm", "challenger-9"])

    assert shown.exit_code == 0, shown.output
    found = msgspec.json.decode(shown.stdout.encode(), type=DayExplained)
    assert found.day == day_ms(DAYS_OF_SEASON - 1)
    assert len(found.before) == 7
    assert max(found.before) < day_ms(BROKEN_IN_SEASON)
    assert [one.feature for one in found.explanation.named][:1] == ["of_item"]
    assert isinstance(refused.exception, SluiceError)
    assert "no such day of 'codesearch', challenger-9" in str(refused.exception)


def test_what_cannot_be_explained_says_what_is_missing(home: Path) -> None:
    with pytest.raises(NothingToExplain, match="no such day of 'codesearch', champion"):
        explained(home, DAYS + 3)
    with pytest.raises(NothingToExplain, match="too few lists of that day or of those before"):
        explained(home, 0)
    with pytest.raises(NothingToExplain, match="no reference profile of codesearch@1"):
        explainer(home, None).explain("codesearch", "champion", None, lambda done, of: None)
    other = msgspec.structs.replace(PROFILE, fingerprint="0" * 16)
    with pytest.raises(NothingToExplain, match="too few lists"):
        explainer(home, other).explain("codesearch", "champion", None, lambda done, of: None)
