"""`sluice models compare` and `sluice models lineage`: how versions differ, and where they come from."""

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from rich.tree import Tree

from deploy import wiring
from deploy.commands.registry_access import AsJson, ModelName, platform, time_of, told

if TYPE_CHECKING:
    from registry.compare import Comparison, Difference
    from registry.lineage import LineageGraph, Node

LIST = "sluice models list"


def compare(
    model: ModelName,
    a: Annotated[int, typer.Argument(help="A version.")],
    b: Annotated[int, typer.Argument(help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """What differs between two versions: figures, tensors, feature view, lineage."""
    from registry.compare import compare

    store = wiring.model_store(platform())
    with told(LIST):
        compared = compare(store.get(model, a), store.get(model, b))
    if as_json:
        typer.echo(msgspec.json.encode(compared).decode())
        return
    for table in _tables(compared):
        Console().print(table)


def lineage(
    model: ModelName,
    version: Annotated[int, typer.Argument(help="Its number.")],
    as_json: AsJson = False,
) -> None:
    """From training window to promotion: dataset, run, parents, and every change of traffic."""
    from registry.lineage import lineage

    settings = platform()
    store, control = wiring.model_store(settings), wiring.traffic_control(settings)
    with told(LIST):
        store.get(model, version)
        graph = lineage(version, store.versions(model), control.history(model))
    if as_json:
        typer.echo(msgspec.json.encode(graph).decode())
        return
    console = Console()
    console.print(_tree(graph))
    titles = ("revision", "at", "what", "who", "why", "evidence")
    table = Table(*(Column(title, overflow="fold") for title in titles), title="traffic")
    for node in graph.happened():
        facts: dict[str, Any] = dict(node.facts)
        evidence = msgspec.json.encode(facts.get("evidence") or {}).decode()
        table.add_row(
            str(facts.get("revision", "")),
            time_of(node.at_ms or 0),
            escape(node.title),
            escape(str(facts.get("who", ""))),
            escape(str(facts.get("why", ""))),
            "" if evidence == "{}" else escape(evidence),
        )
    console.print(table)


def _tables(compared: "Comparison") -> list[Table | str]:
    a, b = (f"@{version}" for version in (compared.a, compared.b))
    shown: list[Table | str] = []
    if compared.incomparable:
        shown.append(f"metrics not compared: {escape(compared.incomparable)}")
    elif compared.metrics:
        figures = Table("metric", a, b, "difference", "relative", title=f"{compared.model}: figures")
        for metric in compared.metrics:
            figures.add_row(
                metric.name,
                _figure(metric.a),
                _figure(metric.b),
                _figure(metric.difference, "+"),
                "" if metric.relative is None else f"{100 * metric.relative:+.2f} %",
            )
        shown.append(figures)
    shown.append(_differences("manifest", compared.manifest, a, b))
    columns = compared.columns
    view = Table("columns", "", title="feature view")
    for what, names in (("added", columns.added), ("removed", columns.removed)):
        if names:
            view.add_row(what, escape(", ".join(names)))
    if columns.reordered:
        view.add_row("reordered", "the columns of both come in another order")
    for change in columns.changed:
        view.add_row(escape(change.field), escape(f"{change.a or 'none'} > {change.b or 'none'}"))
    shown.append(view if view.row_count else "feature view: the same columns")
    shown.append(_differences("lineage", compared.lineage, a, b))
    return shown


def _differences(title: str, differences: "tuple[Difference, ...]", a: str, b: str) -> Table | str:
    if not differences:
        return f"{title}: the same"
    table = Table("", a, b, title=title)
    for difference in differences:
        table.add_row(escape(difference.field), escape(difference.a), escape(difference.b))
    return table


def _figure(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.6f}"


def _tree(graph: "LineageGraph") -> Tree:
    """The version at the root, what led to it below."""
    from registry.lineage import version_id

    def grow(tree: Tree, node: "Node") -> Tree:
        for cause in graph.causes(node.id):
            grow(tree.add(_line(cause)), cause)
        return tree

    root = graph.node(version_id(graph.version))
    return grow(Tree(_line(root)), root)


def _line(node: "Node") -> str:
    facts = ", ".join(f"{name} {value}" for name, value in node.facts.items() if value and not isinstance(value, dict))
    at = f", {time_of(node.at_ms)}" if node.at_ms is not None else ""
    return escape(f"{node.kind} {node.title}{at}" + (f" ({facts})" if facts else ""))
