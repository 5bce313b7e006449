"""`sluice status`."""

import json
import os
import time
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from deploy.commands.table import duration, process_table
from deploy.errors import NotReady, NotRunning
from deploy.machine import lifecycle
from deploy.machine.state import PlatformState
from deploy.settings import ClientSettings, PlatformSettings

LEFT_ALONE_S = 3600.0  # as the alert StreamHeldBack, which a test holds against it


def status(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """How the platform is: processes, traffic, Redis, event lag. Exit code 0, 3 or 4."""
    settings = PlatformSettings.from_environment(os.environ)
    try:
        settings, state = lifecycle.running(settings)
    except NotRunning:
        if as_json:
            typer.echo(json.dumps({"home": str(settings.home), "running": False, "ready": False}))
        raise
    found = _report(settings, state)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        _print(Console(), state, found)
    if not state.ready:
        raise NotReady(state.missing, "sluice logs --level ERROR")


def _report(settings: PlatformSettings, state: PlatformState) -> dict[str, Any]:
    import msgspec

    from deploy.machine.status import features_status, gateway_status, redis_status

    told = ClientSettings.from_environment(os.environ)
    key = "" if told.url else told.key  # beside a URL it is for a platform elsewhere
    has_mlflow = any(process.name == "mlflow" for process in state.processes)
    return {
        "home": str(settings.home),
        "running": True,
        "ready": state.ready,
        "supervisor_pid": state.supervisor_pid,
        "urls": {"gateway": settings.gateway_url}
        | ({"grpc": settings.grpc_address} if settings.with_grpc else {})
        | ({"mlflow": settings.mlflow_url} if has_mlflow else {}),
        "processes": msgspec.to_builtins(state.processes),
        **redis_status(settings, int(time.time() * 1000)),
        "features": features_status(settings),
        "gateway": gateway_status(settings, key),
    }


def _print(console: Console, state: PlatformState, found: dict[str, Any]) -> None:
    def line(name: str, text: str) -> None:
        console.print(f"[bold]{name:<8}[/] {text}", highlight=False, soft_wrap=True)

    console.print(process_table(state, time.time()))
    console.print()
    line("data", found["home"])
    for name, url in found["urls"].items():
        line(name, url + (escape(silence(found["gateway"])) if name == "gateway" else ""))
    if redis := found["redis"]:
        line("redis", f"{redis['used_memory_bytes'] / 1e6:.1f} MB, {redis['keys']} keys")
    else:
        line("redis", "does not answer")
    if features := found["features"]:
        line("features", f"{features['url']}, {features['nodes']} of {features['of']} nodes answer")
    for group, lag in found["events"].items():
        line("events", lag_text(group, lag))
    for name, state_of in open_breakers(found["gateway"] or {}).items():
        line("breaker", f"{name}: {state_of}")
    for version, reason, replicas in failures(found["gateway"] or {}):
        line("failure", escape(f"{version}: {reason} ({', '.join(replicas)})"))
    for plan in found["traffic"]:
        others = "".join(
            f", {one['name']} @{one['version']} at {one['weight'] / 10:g} %"
            for layer in plan["layers"]
            for one in layer["experiments"]
        )
        line("traffic", f"{plan['model']}: champion @{plan['champion']}{others} (revision {plan['revision']})")


def lag_text(group: str, lag: dict[str, float]) -> str:
    """How far behind the group is, and what to do if it must have been left alone."""
    text = f"{group}: {lag['pending']} pending, {duration(lag['lag_s'])} behind"
    if lag["lag_s"] <= LEFT_ALONE_S:
        return text
    if group == "archiver":
        return f"{text}, and the stream grows: start the archiver"
    return f"{text}, and the stream grows: start who reads it, or `redis-cli XGROUP DESTROY sluice:events {group}`"


def open_breakers(gateway: dict[str, Any]) -> dict[str, str]:
    """State by version and by replica, of those that are not closed; gateway: what it says of itself."""
    versions = dict(gateway.get("breakers", {}))
    replicas = {one["replica"]: one.get("breaker", "closed") for one in gateway.get("replicas", ())}
    return {name: state.replace("_", " ") for name, state in (versions | replicas).items() if state != "closed"}


def failures(gateway: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """Versions that cannot be loaded, each reason in one line, and the replicas that say it; gateway: what it says of
    itself."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in gateway.get("replicas", ()):
        for version, reason in one.get("failures", {}).items():
            found.setdefault((version, " ".join(reason.split())), []).append(one["replica"])
    return [(version, reason, replicas) for (version, reason), replicas in sorted(found.items())]


def silence(gateway: dict[str, Any] | None) -> str:
    """Why the gateway says nothing of itself, behind its URL; empty if it does."""
    if gateway is None:
        return ", does not answer"
    if gateway.get("refused") in (401, 403):
        return f", needs a key: {gateway['why']}; try: SLUICE_KEY=… of a viewer of all models"
    return f", answers {gateway['refused']}: {gateway['why']}" if "refused" in gateway else ""
