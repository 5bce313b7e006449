"""`sluice models adopt`: a model that others keep in MLflow becomes a version here."""

from pathlib import Path
from typing import Annotated

import typer

from deploy import wiring
from deploy.commands.registry_access import platform, promote_at_once, told


def adopt(
    uri: Annotated[str, typer.Argument(help="models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/PATH.")],
    name: Annotated[str, typer.Option("--as", help="To register under. Default: its name there and '-served'.")] = "",
    view: Annotated[Path | None, typer.Option("--view", help="A ranker's feature view, JSON.")] = None,
    promote: Annotated[bool, typer.Option("--promote", help="Make it champion at once.")] = False,
) -> None:
    """Register an exported program (a .pt2 file) that plain MLflow holds; without --view it serves tensors."""
    from deploy.features.views import view_of_file
    from deploy.models.adoption import adopted_package
    from registry.mlflow_foreign import fetch_foreign

    settings = platform()
    seen = view_of_file(view) if view else None
    store = wiring.model_store(settings)
    with told("sluice models adopt --help"):
        foreign = fetch_foreign(settings.mlflow_url, uri)
        model = name or f"{foreign.name or 'run'}-served"
        store.require_ours(model)
        adopted = adopted_package(model, foreign, seen)
        version = store.register(model, adopted.package)
        if promote:
            promote_at_once(settings, model, version, f"sluice models adopt {foreign.source} --promote")
    typer.echo(f"adopted {foreign.source} as {model}@{version}{', champion' if promote else ''}")
    if seen and not adopted.profiled_rows:
        typer.echo("without a reference profile: its drift cannot be judged", err=True)
