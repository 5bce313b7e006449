"""`sluice models`: what the registry holds. List, show and register are here, the others beside it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from deploy import wiring
from deploy.commands.adoption import adopt
from deploy.commands.ancestry import compare, lineage
from deploy.commands.registry_access import AsJson, ModelName, now_ms, platform, promote_at_once, time_of, told
from deploy.commands.retirement import archive, gc, unarchive
from deploy.commands.signing import make_key, sign
from deploy.errors import SluiceError
from deploy.settings import PlatformSettings

if TYPE_CHECKING:
    from registry.contracts.manifest import ModelPackage

models = typer.Typer(help="Versions in the registry: register, compare, archive and more.", no_args_is_help=True)


@models.command("list")
def list_models(as_json: AsJson = False) -> None:
    """Every model with its versions and aliases."""
    store = wiring.model_store(platform())
    rows = [
        {
            "model": stored.model,
            "version": stored.version,
            "aliases": sorted(alias for alias, named in store.aliases(model).items() if named == stored.version),
            "created": time_of(stored.created_ms),
            "metrics": stored.manifest.metrics,
            "digest": stored.digest,
            "archived": _time_or_none(stored.archived_ms),
        }
        for model in store.models()
        for stored in store.versions(model)
    ]
    if as_json:
        typer.echo(msgspec.json.encode(rows).decode())
        return
    titles = ("model", "version", "aliases", "created", "NDCG@10", "digest")
    table = Table(*(Column(title, overflow="fold") for title in titles), box=None, pad_edge=False, header_style="bold")
    for row in rows:
        figures: dict[str, float] = row["metrics"]  # type: ignore[assignment]
        table.add_row(
            str(row["model"]),
            str(row["version"]),
            ", ".join(row["aliases"] or ["archived"] * bool(row["archived"])),  # type: ignore[arg-type]
            str(row["created"]),
            "  ".join(f"{name.removesuffix('_ndcg@10')} {value:.4f}" for name, value in sorted(figures.items())),
            str(row["digest"])[:12],
        )
    Console().print(table)


@models.command()
def show(
    model: ModelName,
    version: Annotated[int | None, typer.Argument(help="Default: the champion.")] = None,
    as_json: AsJson = False,
) -> None:
    """One version: inputs, feature view, metrics, lineage, traffic and its history."""
    settings = platform()
    store, control = wiring.model_store(settings), wiring.traffic_control(settings)
    if version is None:
        plan = control.plan(model)  # MLflow's alias follows it, a moment later
        if plan is None:
            raise SluiceError(f"{model!r} has no champion", f"sluice models show {model} VERSION")
        version = plan.champion
    with told("sluice models list"):
        stored = store.get(model, version)
    shown: dict[str, Any] = {
        "model": model,
        "version": version,
        "digest": stored.digest,
        "created": time_of(stored.created_ms),
        "archived": _time_or_none(stored.archived_ms),
        "manifest": msgspec.to_builtins(stored.manifest),
        "history": [
            {"revision": change.revision, "at": time_of(change.at_ms), "who": change.who, "why": change.why}
            for change in control.history(model)
        ],
    }
    if as_json:
        typer.echo(msgspec.json.encode(shown).decode())
        return
    console = Console()
    manifest = stored.manifest
    table = Table(Column(), Column(overflow="fold"), title=f"{model}@{version}", show_header=False)
    table.add_row("digest", stored.digest)
    table.add_row("created", shown["created"])
    if stored.archived_ms:
        table.add_row("archived", shown["archived"])
    for title, specs in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        table.add_row(title, ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs))
    if manifest.remote is not None:
        there = manifest.remote
        choice = f"version {there.version}" if there.version else "the server's own choice of version"
        table.add_row("runs on", f"Triton server {there.server}, model {there.model}, {choice}")
    if manifest.ranks:
        view = manifest.feature_view()
        table.add_row("feature view", f"{view.name}, {len(view.columns)} columns, fingerprint {view.fingerprint}")
        for source in ("row", "query", "candidate"):
            table.add_row(f"  {source} columns", ", ".join(column.name for column in view.of_source(source)) or "none")
    else:
        table.add_row("feature view", "none: it takes tensors only")
    for name, value in sorted(manifest.metrics.items()):
        table.add_row(name, f"{value:.6f}")
    lineage = manifest.lineage
    table.add_row("trained on", f"{lineage.dataset} ({lineage.dataset_digest[:12]}), seed {lineage.seed}")
    table.add_row("parent", "none" if lineage.parent is None else f"{model}@{lineage.parent}")
    console.print(table)
    history = Table("revision", Column("at", overflow="fold"), "who", "why", title="traffic")
    for change in shown["history"]:
        history.add_row(str(change["revision"]), change["at"], change["who"], change["why"])
    console.print(history)


@models.command()
def register(
    model: Annotated[str, typer.Argument(help="Name to register under.")],
    folder: Annotated[Path, typer.Argument(help="With program.pt2, manifest.json and profile.json.")],
    promote: Annotated[bool, typer.Option("--promote", help="Make it champion at once.")] = False,
) -> None:
    """Verify an exported package and register it as a new version."""
    from registry.artefacts import read

    try:
        package = read(folder)
    except OSError as error:
        raise SluiceError(f"{folder}: {error.strerror}", "a folder that pipelines.training.export wrote") from error
    _register(platform(), model, package, promote, "sluice models register --promote")


@models.command("register-remote")
def register_remote(
    model: Annotated[str, typer.Argument(help="Name to register under.")],
    server: Annotated[str, typer.Option("--server", help="A name in SLUICE_TRITON_SERVERS.")],
    remote_model: Annotated[str, typer.Option("--model", help="Its name there. Default: the same.")] = "",
    remote_version: Annotated[str, typer.Option("--version", help="There. Default: the server's choice.")] = "",
    view: Annotated[Path | None, typer.Option("--view", help="A ranker's feature view, JSON.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it champion at once.")] = False,
) -> None:
    """Register a model that a running Triton server serves, as that server describes it."""
    from deploy.features.views import view_of_file
    from deploy.models.remote_package import remote_package
    from registry.contracts.manifest import RemoteModel
    from serving.errors import RankingError

    settings = platform()
    remote = RemoteModel(server, remote_model or model, remote_version)
    try:
        package = remote_package(
            model, remote, settings.triton_addresses, view_of_file(view) if view else None, now_ms()
        )
    except RankingError as error:
        raise SluiceError(str(error), "sluice models register-remote --help") from error
    _register(settings, model, package, promote, "sluice models register-remote --promote")


def _register(settings: PlatformSettings, model: str, package: "ModelPackage", promote: bool, why: str) -> None:
    store = wiring.model_store(settings)
    with told("sluice models list"):
        version = store.register(model, package)
        if promote:
            promote_at_once(settings, model, version, why)
    typer.echo(f"registered {model}@{version}{' as champion' if promote else ''}")


def _time_or_none(at_ms: int) -> str | None:
    return time_of(at_ms) if at_ms else None


models.command()(adopt)
models.command()(compare)
models.command()(lineage)
models.command()(archive)
models.command()(unarchive)
models.command()(gc)
models.command()(sign)
models.command("make-key")(make_key)
