"""Reports from the archive of a drifted season: what Evidently says of it, what we say, and that they agree."""

import gzip
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from scipy import stats

from deploy.drift_reports.make import ReportSources, same_weekdays
from deploy.drift_reports.parts import evidently_reports, report_sources
from deploy.drift_reports.rows import sampled
from deploy.drift_reports.turns import LIMIT_S
from drift.errors import ReportRefused
from drift.evidently_reports.about import ReportFigures
from drift.evidently_reports.files import EvidentlyReports, ReportPlace
from drift.settings import ReportSettings
from tests.builders import NOW_MS, a_shift_record
from tests.deploy.drifted_season import BROKEN, DAY_MS, DAYS, LISTS, MODEL, DriftedSeason, day_ms
from tests.deploy.platforms import ROOT
from tests.drift.traffic import COLUMNS, PROFILE

ALARMED = ReportPlace(MODEL, "champion", day_ms(DAYS - 1))
QUIET = ReportPlace(MODEL, "champion", day_ms(BROKEN - 1))
BEFORE_ANCHOR = ReportPlace(MODEL, "champion", day_ms(5))


@dataclass(frozen=True)
class Made:
    """One report of the season, as the process made it."""

    page: str
    figures: ReportFigures

    @property
    def ours(self) -> dict[str, Any]:
        return {one.quantity: one for one in self.figures.quantities}

    def evidently(self, quantity: str, method: str) -> float:
        (found,) = [
            metric["value"]
            for metric in self.figures.evidently
            if (metric["config"].get("column"), metric["config"].get("method")) == (quantity, method)
        ]
        return float(found)


def process(season: DriftedSeason, *words: str) -> "subprocess.CompletedProcess[str]":
    return python(season, "-m", "deploy.drift_reports.process", *words)


def python(season: DriftedSeason, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | season.settings.to_environment()
    argv = [sys.executable, *arguments]
    return subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture(scope="module")
def season(tmp_path_factory: pytest.TempPathFactory) -> DriftedSeason:
    return DriftedSeason.written(tmp_path_factory.mktemp("season"))


@pytest.fixture(scope="module")
def reports(season: DriftedSeason) -> EvidentlyReports:
    """With those of three days, made by one process, as what it imports takes seconds."""
    days = ["2026-01-18", "2026-01-16", "2026-01-06"]
    each = f"[main(['{MODEL}', 'champion', day]) for day in {days}]"
    done = python(season, "-c", f"from deploy.drift_reports.process import main; assert {each} == [0, 0, 0]")
    assert done.returncode == 0, done.stderr
    return evidently_reports(season.settings)


def made(reports: EvidentlyReports, place: ReportPlace) -> Made:
    page, figures = (reports.content(place, form) for form in ("html", "json"))
    assert page
    assert figures
    return Made(gzip.decompress(page).decode(), msgspec.json.decode(figures, type=ReportFigures))


def values(season: DriftedSeason, since_ms: list[int], most: int) -> np.ndarray:
    """Of the same lists, taken from the archive again."""
    taken = [
        sampled(season.archive, MODEL, "champion", 1, PROFILE, [(at, at + DAY_MS)], most).taken() for at in since_ms
    ]
    return np.concatenate([one.values for one in taken]).astype(float)


def test_a_report_says_what_it_looked_at(reports: EvidentlyReports) -> None:
    about = made(reports, ALARMED).figures.about

    assert about.against == "anchor"
    assert (about.day.lists, about.day.rows, about.day.of) == (LISTS, 8 * LISTS, LISTS)
    # the anchor is of the first 14 days; day 17 has the weekday of days 3 and 10
    assert about.reference.days == (day_ms(3), day_ms(10))
    assert (about.reference.lists, about.reference.of) == (2 * LISTS, 2 * LISTS)
    assert about.drawn[0] == "of_item"
    assert [(record.family, record.verdict) for record in about.records] == [
        ("features", "failed"),
        ("confidence", "passed"),
    ]
    assert about.evidently == "0.7.23"


def test_what_drifted_is_far_from_its_reference_and_nothing_else_is(reports: EvidentlyReports) -> None:
    ours = made(reports, ALARMED).ours

    assert ours["of_item"].shift == pytest.approx(1.5 / PROFILE.features[0].std, rel=0.1)
    # 120 lists against 240: one value a list of a query's own feature, so 0.34 are 3 standard errors; one that is
    # there in a hundredth of the lists is there in two of them or three, which tells nothing
    others = {name: one for name, one in ours.items() if name not in ("of_item", "rare_of_query")}
    assert {name: one.shift for name, one in others.items() if abs(one.shift) >= 0.34} == {}
    assert abs(made(reports, QUIET).ours["of_item"].shift) < 0.34


def test_figures_agree_with_evidently_s_on_the_same_lists(season: DriftedSeason, reports: EvidentlyReports) -> None:
    """Wasserstein exactly; Kolmogorov-Smirnov by the p-value that our distance has; PSI, whose bins are others
    there (Sturges' of both sides, ours the reference's deciles), exactly when counted in those bins."""
    report = made(reports, ALARMED)
    now = values(season, [ALARMED.since_ms], LISTS)
    then = values(season, [day_ms(3), day_ms(10)], LISTS)

    for place, name in enumerate(COLUMNS[:-1]):
        ours, sides = report.ours[name], [side[:, place][np.isfinite(side[:, place])] for side in (then, now)]
        assert report.evidently(name, "wasserstein") == pytest.approx(ours.wasserstein, rel=1e-6), name
        exact = stats.ks_2samp(*sides)
        assert ours.ks == pytest.approx(exact.statistic, abs=1e-12), name
        assert report.evidently(name, "ks") == pytest.approx(exact.pvalue, rel=1e-6), name
        assert report.evidently(name, "psi") == pytest.approx(psi_in_sturges_bins(*sides), rel=1e-6), name


def psi_in_sturges_bins(then: np.ndarray, now: np.ndarray) -> float:
    """The Jeffreys divergence, as `drift.statistics.psi` has it but for what an empty bin counts."""
    if len(np.unique(then)) > 20:
        bins = np.histogram_bin_edges(np.concatenate([then, now]), bins="sturges")
        shares = [np.histogram(side, bins)[0] / len(side) for side in (then, now)]
    else:
        levels = np.unique(np.concatenate([then, now]))
        shares = [np.array([(side == level).mean() for level in levels]) for side in (then, now)]
    for share in shares:
        least = share[share > 0].min()
        share[share == 0] = least / 1e6 if least <= 1e-4 else 1e-4
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def test_before_there_is_an_anchor_the_profile_is_what_is_compared_with(reports: EvidentlyReports) -> None:
    report = made(reports, BEFORE_ANCHOR)

    assert (report.figures.about.against, report.figures.about.reference.days) == ("profile", ())
    for place, name in enumerate(COLUMNS):
        assert report.ours[name].reference.mean == PROFILE.features[place].mean
    # laid out from bins: to within a bin, which is a tenth of the values
    for name in ("of_item", "of_both", "often_missing"):
        assert report.evidently(name, "wasserstein") == pytest.approx(report.ours[name].wasserstein, abs=0.1)


def test_a_page_loads_nothing_from_elsewhere(reports: EvidentlyReports) -> None:
    page = made(reports, ALARMED).page

    assert not re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc\s*=|<link\b|@import", without_scripts(page))
    assert re.search(r"content=\"default-src 'none'; script-src ('sha256-[A-Za-z0-9+/=]{44}' ?)+;", page)
    assert "codesearch@1, champion, 2026-01-18 (UTC)" in page


def without_scripts(page: str) -> str:
    return re.sub(r"<script>.*?</script>", "<script></script>", page, flags=re.DOTALL)


def test_made_again_the_figures_are_the_same(season: DriftedSeason, reports: EvidentlyReports) -> None:
    before = made(reports, QUIET).figures

    assert process(season, MODEL, "champion", "2026-01-16").returncode == 0

    again = made(reports, QUIET).figures
    assert again.quantities == before.quantities
    assert [metric["value"] for metric in again.evidently] == [metric["value"] for metric in before.evidently]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((MODEL, "champion", "2025-01-01"), 3, "was not closed"),
        ((MODEL, "challenger-2", "2026-01-18"), 3, "was not closed"),
        ((MODEL, "champion", "yesterday"), 1, "expected a date"),
    ],
)
def test_what_cannot_be_made_is_told_in_the_last_line(
    season: DriftedSeason, words: tuple[str, ...], code: int, told: str
) -> None:
    done = process(season, *words)

    assert done.returncode == code
    assert told in done.stderr.splitlines()[-1]


def test_a_day_whose_lists_are_gone_is_refused(season: DriftedSeason, tmp_path: Path) -> None:
    sources = report_sources(replace(season.settings, with_mlflow=False))
    without = ReportSources(
        archive=type(season.archive)(tmp_path),
        days=sources.days,
        profile=sources.profile,
        shown=lambda model: (),
        settings=ReportSettings(),
    )

    with pytest.raises(ReportRefused, match="no list of that day"):
        without.make(ALARMED, NOW_MS)


def test_the_anchor_s_days_of_the_weekday_are_those_before_the_day() -> None:
    def days(day: int, anchor: tuple[int, int]) -> list[int]:
        spans = {"anchor_since_ms": day_ms(anchor[0]), "anchor_until_ms": day_ms(anchor[1])}
        record = a_shift_record(since_ms=day_ms(day), until_ms=day_ms(day + 1), **spans)
        return [(at - NOW_MS) // DAY_MS for at in same_weekdays(record)]

    assert days(30, (0, 28)) == [2, 9, 16, 23]
    assert days(27, (0, 28)) == [6, 13, 20]  # the day that the anchor was laid
    assert days(42, (7, 21)) == [7, 14]
    assert same_weekdays(a_shift_record()) == []
