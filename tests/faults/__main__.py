"""`python -m tests.faults --seed N [--rounds K] [--only NAME]`: every fault, and what it cost.

A round is a run of pytest over this folder with one seed, on fresh platforms; each test tells what its clients had
acknowledged and what of that was lost. Exit code 1 if a promise was broken.
"""

import argparse
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """One fault in one round. acknowledged, lost: None where the test ended before it could count."""

    fault: str
    seed: int
    outcome: str
    acknowledged: int | None
    lost: int | None
    longest_pause_s: float | None
    why: str


@dataclass
class Collector:
    """A plugin of pytest that keeps what each test tells of itself."""

    seed: int
    rows: list[Row] = field(default_factory=list)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A row for each test that ran, and for each that could not begin."""
        if report.when != "call" and report.passed:
            return
        if report.when == "teardown":
            return
        told = dict(report.user_properties)
        fault = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
        why = "" if report.passed else _why(report)
        figures = (told.get("acknowledged"), told.get("lost"), told.get("longest_pause_s"))
        self.rows.append(Row(fault, self.seed, report.outcome, *figures, why))  # type: ignore[arg-type]


def main() -> int:
    """Exit code: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Breaks things, counts what is lost")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=1, help="each with the next seed")
    parser.add_argument("--only", default="", help="faults whose test's name holds this (pytest's -k)")
    told = parser.parse_args()
    rows: list[Row] = []
    for seed in range(told.seed, told.seed + told.rounds):
        os.environ["SLUICE_TEST_SEED"] = str(seed)
        collector = Collector(seed)
        argv = [str(FOLDER), "-q", "--no-header", "-p", "no:cacheprovider", "-m", "faults or not faults"]
        pytest.main([*argv, *(("-k", told.only) if told.only else ())], plugins=[collector])
        rows += collector.rows
    show(rows)
    return int(not rows or any(row.outcome == "failed" or row.lost for row in rows))


def show(rows: list[Row]) -> None:
    """The table."""
    table = Table("fault", "seed", "acknowledged", "lost", "longest pause", "", title="Acknowledged and lost")
    for row in rows:
        pause = "" if row.longest_pause_s is None else f"{row.longest_pause_s:.2f} s"
        counts = ("" if count is None else f"{count:,}" for count in (row.acknowledged, row.lost))
        table.add_row(row.fault, str(row.seed), *counts, pause, row.outcome + (f": {row.why}" if row.why else ""))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _why(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return report.longreprtext.strip().splitlines()[-1] if report.longreprtext else ""


if __name__ == "__main__":
    sys.exit(main())
