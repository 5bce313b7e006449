"""`sluice deliver`: a version's way to champion as a job of CI: started once, waited for, and told by the exit code."""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperCommand

from deploy.commands.promote import Model, Why
from deploy.commands.rollout_gates import rollout_body
from deploy.commands.rollout_view import live_rollout, rollout_table
from deploy.control.client import ControlClient, model_path
from deploy.errors import Refused, SluiceError

POLL_S = 1.0
PROMOTED, ERROR, REFUSED, INCONCLUSIVE = 0, 1, 2, 3
_EXIT_CODES = {"promoted": PROMOTED, "refused": REFUSED, "inconclusive": INCONCLUSIVE}
_NO = (400, 404, 409, 412, 413, 422)  # about what was asked; the others are about who asks, or who is away
_OPEN = ("running", "paused")
_TOO_LONG = "was not passed within"  # how the controller says that a step's max_s is over

Ending = Literal["promoted", "refused", "inconclusive"]


class _Said(SluiceError):
    """The platform refuses the version before there is a rollout."""

    exit_code = REFUSED


class _Job(TyperCommand):
    """Whatever else goes wrong is an error: 2 and 4 are other commands' codes for wrong usage, a wrong setting and a
    platform that does not run, and a job would take the first two for a refusal."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        try:
            return super().make_context(*args, **options)
        except typer.Exit:  # --help
            raise
        except Exception as error:
            wrong_usage: Any = error
            wrong_usage.exit_code = ERROR
            raise

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _Said:
            raise
        except SluiceError as error:
            error.exit_code = ERROR
            raise


deliver = typer.Typer(add_completion=False)


@deliver.command(cls=_Job)
def bring(
    model: Model,
    version: Annotated[int, typer.Argument(help="The version that is to become champion.", min=1)],
    job: Annotated[str, typer.Option(help="What stays the same when the job is run again: the pipeline's id.")],
    why: Why = "",
    spec: Annotated[Path | None, typer.Option(help="JSON: steps, guardrails, … in place of the default ones.")] = None,
    evidence: Annotated[
        list[Path] | None, typer.Option(help="JSON of what the job measured: kind, verdict, why, body; repeat it.")
    ] = None,
    interleaving: Annotated[bool, typer.Option("--interleaving", help="With an interleaving step.")] = False,
    online_gate: Annotated[bool, typer.Option(help="Wait for the online gate, which needs clicks.")] = True,
    patience_s: Annotated[float, typer.Option(help="So long the job waits; the rollout goes on without it.", min=0)] = (
        3000.0
    ),
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Take the version back instead, if it is there.")
    ] = False,
) -> None:
    """Bring a version to champion from a CI job. Run again, it goes on where it was, and starts nothing twice.

    Exit code: 0 promoted (or taken back), 2 refused, 3 inconclusive until now, 1 any error.
    """
    why = why or f"CI job {job}"
    console = Console()
    with ControlClient.of(os.environ) as control:
        if rollback:
            console.print(take_back(control, model, version, job, why), highlight=False, soft_wrap=True)
            raise typer.Exit(0)
        options = rollout_body(version, why, interleaving=interleaving, online_gate=online_gate)
        body = options | (_object(spec) if spec else {})
        try:
            rollout_id = started(control, model, version, body, job)
            if rollout_id:
                for path in evidence or ():
                    hand_in(control, model, version, _object(path), job)
        except Refused as error:
            if error.status in _NO:
                raise _Said(f"{model}@{version}: refused: {error.message}", error.hint) from error
            raise
        if not rollout_id:
            console.print(f"{model}@{version} is champion, without a rollout", highlight=False, soft_wrap=True)
            raise typer.Exit(PROMOTED)
        report = waited_for(control, model, rollout_id, patience_s, console)
        champion = control.get(model_path(model, "plan"))["plan"]["champion"]
    ended, words = ending(report, champion)
    console.print(rollout_table(report, time.time_ns() // 1_000_000))
    console.print(evidence_table(report))
    console.print(f"{model}@{version}: {ended}: {words}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(_EXIT_CODES[ended])


def started(control: ControlClient, model: str, version: int, body: dict[str, Any], job: str) -> str:
    """The id of the version's rollout: the open one, the one that made it champion, or one that is started now, by
    this job once. Empty if it is champion without one. Raises Refused, SluiceError."""
    rollouts = control.get(model_path(model, "rollouts"))["rollouts"]
    mine = [one["rollout"] for one in rollouts if one["rollout"]["challenger"] == version]
    if under_way := [one["id"] for one in mine if one["state"] in _OPEN]:
        return str(under_way[0])
    if control.get(model_path(model, "plan"))["plan"]["champion"] == version:
        return next((str(one["id"]) for one in mine if one["state"] == "promoted"), "")
    made = control.post(model_path(model, "rollouts"), body, idempotency_key=f"deliver-{job}")
    return str(made["rollout"]["id"])


def hand_in(control: ControlClient, model: str, version: int, measured: dict[str, Any], job: str) -> None:
    """What the job measured, once. Raises Refused, SluiceError."""
    content = hashlib.sha256(msgspec.json.encode(measured, order="deterministic")).hexdigest()
    body = {"why": f"CI job {job}"} | measured | {"challenger": version}
    control.post(model_path(model, "evidence"), body, idempotency_key=f"deliver-{job}-{content[:16]}")


def waited_for(
    control: ControlClient,
    model: str,
    rollout_id: str,
    patience_s: float,
    console: Console,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """The rollout's report, once it has ended or patience has; a line for each change until then."""
    until_s = clock() + patience_s
    with live_rollout(console) as view:
        while True:
            report = control.get(model_path(model, "rollouts", rollout_id))
            view.show(report, time.time_ns() // 1_000_000)
            if report["rollout"]["state"] not in _OPEN or clock() >= until_s:
                return report
            pause(POLL_S)


def ending(report: Any, champion: int) -> tuple[Ending, str]:
    """What came of it, and in which words. champion: of the plan now.

    A rollout that goes on, or that ended because nothing was decided in time, is inconclusive.
    """
    about, history = report["rollout"], report["history"]
    last = history[-1]["why"] if history else ""
    state = about["state"]
    if state == "promoted":
        if champion == about["challenger"]:
            return "promoted", last
        return "refused", f"it was promoted, and is champion no more: @{champion} is"
    if state in _OPEN:
        step = about["spec"]["steps"][about["step"]]["name"]
        return "inconclusive", f"step {step}: {report['outlook'].get('why', 'paused')}; run this again to go on waiting"
    if state == "rolled_back" and history and not history[-1]["evidence"] and _TOO_LONG in last:
        return "inconclusive", last
    return "refused", f"{state.replace('_', ' ')}: {last}"


def take_back(control: ControlClient, model: str, version: int, job: str, why: str) -> str:
    """Ends the version's rollout, or, if it is champion, makes the champion before it champion again; says what was
    done. Does nothing where the version gets no traffic. Raises Refused, SluiceError."""
    rollouts = control.get(model_path(model, "rollouts"))["rollouts"]
    mine = [one["rollout"] for one in rollouts if one["rollout"]["challenger"] == version]
    if under_way := [one for one in mine if one["state"] in _OPEN]:
        path = model_path(model, "rollouts", under_way[0]["id"], "abort")
        control.post(path, {"why": why}, idempotency_key=f"deliver-{job}-abort")
        return f"{model}@{version}: its rollout {under_way[0]['id']} is ended"
    now = control.get(model_path(model, "plan"))
    if now["plan"]["champion"] != version:
        return f"{model}@{version} is neither champion nor on its way: nothing to take back"
    before = next((one["champion"] for one in mine if one["state"] == "promoted"), None)
    body = {"why": why, "to": before}
    made = control.post(
        model_path(model, "rollback"), body, if_match=now["plan_revision"], idempotency_key=f"deliver-{job}-rollback"
    )
    return f"{model}@{version} is taken back: champion @{made['plan']['champion']} (revision {made['plan_revision']})"


def evidence_table(report: Any) -> Table:
    """What it was decided on, newest first."""
    table = Table("evidence", "kind", "verdict", "why", title="evidence")
    began_ms = report["rollout"]["started_ms"]
    for one in report["evidence"]:
        found = one["evidence"]
        if found["made_ms"] >= began_ms or found["kind"] == "offline_gate":
            table.add_row(one["id"][:12], found["kind"], found["verdict"], found["why"])
    return table


def _object(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise SluiceError(f"{path}: {error}", "a JSON object, see docs/delivery.md") from error
