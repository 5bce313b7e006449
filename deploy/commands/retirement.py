"""`sluice models archive`, `unarchive` and `gc`: versions that are done with, and their files."""

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy import wiring
from deploy.commands.registry_access import AsJson, ModelName, now_ms, platform, told, who
from deploy.settings import PlatformSettings
from registry.errors import UnknownVersion

if TYPE_CHECKING:
    from registry.retirement import Retirement
    from registry.store import ModelStore

DAY_MS = 86_400_000
Version = Annotated[int, typer.Argument(help="Its number.")]


def archive(model: ModelName, version: Version) -> None:
    """No traffic for this version any more; gc may delete it."""
    settings = platform()
    with told(f"sluice models show {model} {version}"):
        _retirement(settings, wiring.model_store(settings)).archive(model, version, now_ms())
    typer.echo(f"archived {model}@{version}")


def unarchive(model: ModelName, version: Version) -> None:
    """The version may have traffic again."""
    settings = platform()
    with told("sluice models list"):
        _retirement(settings, wiring.model_store(settings)).unarchive(model, version)
    typer.echo(f"{model}@{version} is not archived")


def gc(
    keep: Annotated[int, typer.Option("--keep", min=0, help="So many archived versions of a model stay.")] = 0,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, metavar="DAYS", help="Only those archived so long ago.")
    ] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be deleted, and delete nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete archived versions that are not in use: files, MLflow's entries, copies on this machine."""
    settings = platform()
    store, now = wiring.model_store(settings), now_ms()
    retirement = _retirement(settings, store)
    before_ms = int(now - older_than * DAY_MS)
    with told("sluice models gc again: what was begun goes on"):
        collected = [
            retirement.collect(model, keep=keep, archived_before_ms=before_ms, who=who(), now_ms=now, dry=dry_run)
            for model in store.models()
        ]
        copies = [] if dry_run else _drop_copies(settings, store)
    if as_json:
        typer.echo(msgspec.json.encode({"models": collected, "copies": copies}).decode())
        return
    table = Table("version", "would be" if dry_run else "is", "why")
    for one in collected:
        for version in one.deleted:
            table.add_row(f"{one.model}@{version}", "deleted", "archived and not in use")
        for version, why in sorted(one.kept.items()):
            table.add_row(f"{one.model}@{version}", "kept", escape(why))
    for model, number in copies:
        table.add_row(f"{model}@{number}", "deleted", "a copy on this machine, not stored any more")
    Console().print(table if table.row_count else "no version is archived")


def _drop_copies(settings: PlatformSettings, store: "ModelStore") -> list[tuple[str, int]]:
    """Local copies of versions that are neither stored nor in a plan, which workers follow though MLflow be gone."""
    from deploy.models.copies import version_cache

    control = wiring.traffic_control(settings)

    def wanted(model: str, version: int) -> bool:
        try:
            store.get(model, version)
            return True
        except UnknownVersion:
            plan = control.plan(model)
            return plan is not None and version in plan.versions()

    return version_cache(settings).drop(wanted)


def _retirement(settings: PlatformSettings, store: "ModelStore") -> "Retirement":
    from registry.retirement import Retirement

    control = wiring.traffic_control(settings)

    def on_their_way(model: str) -> set[int]:
        return {one.challenger for one in control.rollouts(model, open_only=True)}

    return Retirement(store, control, wiring.promoter(settings, store), on_their_way)
