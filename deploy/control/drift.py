"""What closed days came to, their reports, and declared changes of features."""

import gzip

from deploy.control.asks import Ask, Reply
from deploy.control.desk import Desk
from deploy.control.errors import ControlRefused, NotNow, NotThere
from deploy.drift_reports.shelf import ReportShelf, page_headers
from drift.evidently_reports.files import Form
from registry.contracts.drift import Rebaseline
from registry.errors import AnsweredBefore, StoreUnavailable
from serving.gateway.control.drift import DriftAnswer, DriftReportList, RebaselineAnswer, ReportBody
from serving.gateway.control.fields import WhyBody


def drift(desk: Desk, ask: Ask) -> Reply:
    """What the newest closed days came to."""
    plan, records = desk.control.plan(ask.model), desk.closed_days(ask.model)
    calibration, there = desk.calibration(ask.model), desk.reports.of(records) if desk.reports else ()
    return ask.reply(DriftAnswer(ask.model, plan.revision if plan else 0, records, calibration, there))


def rebaseline(desk: Desk, ask: Ask) -> Reply:
    """Decided when its receipt is kept; the board may hear of it later, and twice."""
    body: WhyBody = ask.body
    plan = desk.control.plan(ask.model)
    answer = RebaselineAnswer(ask.model, plan.revision if plan else 0, ask.now_ms, ask.caller.who, body.why)
    reply = ask.reply(answer)
    if (receipt := ask.receipt(reply)) is not None and desk.control.keep_receipt(receipt) != receipt:
        # another request with this key was quicker: the answer is its
        raise AnsweredBefore(f"Idempotency-Key {ask.key!r} is being answered: repeat the request")
    declare_decided(desk, answer)
    return reply


def declare_decided(desk: Desk, answer: RebaselineAnswer) -> None:
    """Raises NotNow if the monitor cannot hear yet of what is decided."""
    try:
        desk.declare(Rebaseline(answer.model, answer.from_ms, answer.who, answer.why))
    except StoreUnavailable as error:
        raise NotNow(
            f"the change is not declared yet ({error}): repeat the request with the same Idempotency-Key"
        ) from error


def drift_reports(desk: Desk, ask: Ask) -> Reply:
    """Those that are there, and those that are wanted."""
    plan, shelf = desk.control.plan(ask.model), _shelf(desk)
    revision = plan.revision if plan else 0
    return ask.reply(DriftReportList(ask.model, revision, shelf.lines(ask.model), shelf.waiting(ask.model)))


def drift_report(desk: Desk, ask: Ask) -> Reply:
    """The page for people, the figures for programs."""
    told = ask.query.get("format", "") or ("html" if "text/html" in ask.accept else "json")
    if told not in ("html", "json"):
        raise ControlRefused(f"format={told[:32]!r}: expected html or json")
    form: Form = "html" if told == "html" else "json"
    about, content = _shelf(desk).content(ask.model, ask.id, ask.query.get("arm", "champion"), form)
    if form == "json":
        return Reply(200, content)
    headers = page_headers(about) | ({"content-encoding": "gzip"} if ask.gzip else {})
    page = content if ask.gzip else gzip.decompress(content)
    return Reply(200, page, headers=headers, media_type="text/html; charset=utf-8")


def want_drift_report(desk: Desk, ask: Ask) -> Reply:
    """The same wish again changes nothing."""
    body: ReportBody = ask.body
    return ask.reply(_shelf(desk).want(ask.model, body.day, body.arm, desk.closed_days(ask.model)))


def _shelf(desk: Desk) -> ReportShelf:
    if desk.reports is None:
        raise NotThere("this platform keeps no reports of closed days")
    return desk.reports
