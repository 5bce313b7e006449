"""What stands on top of Evidently's page: what the day came to, what is compared, our figures of all quantities."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from drift.evidently_reports.about import ReportAbout
from drift.evidently_reports.figures import ComparedQuantity
from registry.contracts.drift import ShiftAlarm

_REFERENCE = {
    "anchor": "the anchor's days of the same weekday",
    "profile": "the version's reference profile, its bins laid out as values: distances are right to within a bin",
}


def title_of(about: ReportAbout) -> str:
    """Plain text."""
    return f"{about.model}@{about.version}, {about.arm}, {_day(about.since_ms, about.until_ms)}"


def head_of(about: ReportAbout, figures: Sequence[ComparedQuantity]) -> str:
    """HTML; whatever is not ours in it is escaped."""
    verdicts = "".join(
        f"<p>{record.family}{escape(f' of {record.segment}' if record.segment else '')}: "
        f'<span class="{record.verdict}">{record.verdict}</span> {escape(record.why)}</p>'
        for record in about.records
    )
    alarms = [alarm for record in about.records for alarm in record.alarms]
    day, reference = about.day, about.reference
    compared = f"{day.lists} of the day's {day.of} lists ({day.rows} shown items), in order of time, beside "
    if about.against == "anchor":
        compared += f"{reference.lists} of {reference.of} of "
    days = ", ".join(f"{datetime.fromtimestamp(start / 1000, UTC):%Y-%m-%d}" for start in dict.fromkeys(reference.days))
    return (
        f'<section class="sluice"><h1>{escape(title_of(about))}</h1>{verdicts}{_alarm_table(alarms)}'
        f"<h2>What is compared</h2><p>{compared}{_REFERENCE[about.against]}{f' ({days})' if days else ''}. Lists are "
        "chosen by hash, each as likely as any other; values that are not finite count as missing.</p>"
        "<p>Verdicts and alarms come from whole days (see `sluice drift show`). What Evidently calls drift below is a "
        "distance past a threshold of its own, rows taken as independent: it explains an alarm, and raises none.</p>"
        f"{_figure_table(figures)}"
        f"<h2>Drawn by Evidently {escape(about.evidently)}: {len(about.drawn)} of {len(figures)} quantities</h2>"
        "</section>"
    )


def _day(since_ms: int, until_ms: int) -> str:
    since, until = (datetime.fromtimestamp(at / 1000, UTC) for at in (since_ms, until_ms))
    if until_ms - since_ms == 86_400_000 and since_ms % 86_400_000 == 0:
        return f"{since:%Y-%m-%d} (UTC)"
    return f"{since:%Y-%m-%d %H:%M:%S} to {until:%Y-%m-%d %H:%M:%S} (UTC)"


def _alarm_table(alarms: Sequence[ShiftAlarm]) -> str:
    if not alarms:
        return "<p>No alarm is open.</p>"
    rows = [
        (
            alarm.quantity,
            alarm.kind.replace("_", " "),
            alarm.against,
            f"{alarm.effect:+.2f} sd" if alarm.kind == "mean" else f"{100 * alarm.effect:+.1f} points",
            f"{alarm.cusum:.1f} of {alarm.threshold:.1f}",
            f"{datetime.fromtimestamp(alarm.onset_ms / 1000, UTC):%Y-%m-%d %H:%M}",
            "answered by retraining" if alarm.answered else "open",
        )
        for alarm in alarms
    ]
    return f"<h2>Alarms</h2>{_table(('quantity', 'what', 'against', 'shift', 'cusum', 'began', ''), rows)}"


def _figure_table(figures: Sequence[ComparedQuantity]) -> str:
    ordered = sorted(figures, key=lambda one: -(one.wasserstein or 0.0))
    rows = [
        (
            one.quantity,
            *(_number(side.mean) for side in (one.reference, one.current)),
            *(_number(value) for value in (one.shift, one.wasserstein, one.ks, one.psi)),
            *(f"{100 * side.missing_share:.1f}" for side in (one.reference, one.current)),
            *(f"{100 * side.zero_share:.1f}" for side in (one.reference, one.current)),
        )
        for one in ordered
    ]
    titles = ("quantity", "mean then", "now", "shift, sd", "Wasserstein, sd", "KS", "PSI", "missing then, %", "now")
    table = _table((*titles, "zero then, %", "now"), rows)
    return f"<details><summary>All {len(rows)} quantities</summary>{table}</details>"


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
