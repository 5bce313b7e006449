"""Verdicts as files: one a window, the latest beside them, and no more than are kept."""

from pathlib import Path

import pytest

from drift.settings import Rule
from drift.windows.judge import DriftVerdict
from drift.windows.reports import VerdictReports
from tests.builders import NOW_MS


def a_verdict(window: int = 0, version: int = 1, arm: str = "champion", lists: int = 0) -> DriftVerdict:
    start_ms = NOW_MS + window * 1000
    reasons = (f"{lists} lists: expected at least 200",)
    return DriftVerdict(
        "codesearch", version, arm, start_ms, start_ms + 1000, "inconclusive", reasons, lists, lists, Rule(), "", (), ()
    )


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_verdict_lies_under_its_model_and_version(tmp_path: Path) -> None:
    VerdictReports(tmp_path).write(a_verdict(version=7))

    assert names(tmp_path) == ["codesearch/7/champion-20260101T000000000Z.json", "codesearch/7/latest-champion.json"]


def test_the_latest_verdict_is_of_the_latest_window_of_its_arm(tmp_path: Path) -> None:
    reports = VerdictReports(tmp_path)
    for verdict in (a_verdict(1), a_verdict(2, lists=5), a_verdict(0), a_verdict(3, arm="challenger")):
        reports.write(verdict)

    assert reports.latest("codesearch", 1, "champion") == a_verdict(2, lists=5)


def test_the_same_window_again_replaces_itself(tmp_path: Path) -> None:
    reports = VerdictReports(tmp_path)
    reports.write(a_verdict(lists=1))
    before = names(tmp_path)

    reports.write(a_verdict(lists=2))

    assert names(tmp_path) == before
    assert reports.latest("codesearch", 1, "champion") == a_verdict(lists=2)


def test_the_oldest_windows_of_an_arm_go_first(tmp_path: Path) -> None:
    reports = VerdictReports(tmp_path, kept=2)
    reports.write(a_verdict(0, arm="challenger"))
    for window in range(4):
        reports.write(a_verdict(window))

    assert [name.rpartition("/")[2] for name in names(tmp_path)] == [
        "challenger-20260101T000000000Z.json",
        "champion-20260101T000002000Z.json",
        "champion-20260101T000003000Z.json",
        "latest-challenger.json",
        "latest-champion.json",
    ]


@pytest.mark.parametrize("arm", ["champion", "challenger"])
def test_no_window_judged_yet_is_no_verdict(tmp_path: Path, arm: str) -> None:
    assert VerdictReports(tmp_path).latest("codesearch", 1, arm) is None
