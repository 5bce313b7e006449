"""`sluice rank`: one question to the code search model, from the shell."""

import os
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from deploy.client import GatewayClient
from deploy.errors import SluiceError
from deploy.machine.lifecycle import running
from deploy.settings import PlatformSettings


def rank(
    question: Annotated[str, typer.Argument(help="What the function should do, in words.")],
    top: Annotated[int, typer.Option(help="How many to show.", min=1, max=100)] = 10,
    model: Annotated[str, typer.Option(help="A model trained by `sluice demo` on code search.")] = "codesearch",
    as_json: Annotated[bool, typer.Option("--json", help="The gateway's answer, for scripts.")] = False,
) -> None:
    """Find functions of Python's standard library: candidates by BM25, ranked by the served model."""
    settings = running(PlatformSettings.from_environment(os.environ))[0]
    from deploy.demo.datasets import code_search_folder
    from pipelines.codesearch.index import VIEW, CodeSearchIndex
    from pipelines.errors import DataRefused

    try:
        index = CodeSearchIndex.load(code_search_folder(settings))
    except DataRefused as error:
        raise SluiceError("there is no code search index yet", "sluice demo") from error
    found = index.search(question)
    if not found.item_ids:
        raise SluiceError(f"no word of {question!r} stands in the library's documentation", "other words")
    names = [column.name for column in VIEW.of_source("candidate")]
    body = {
        "candidates": list(found.item_ids),
        "top_k": top,
        "query": {
            "features": dict(zip((c.name for c in VIEW.of_source("query")), found.query_values.tolist(), strict=True))
        },
        "features": {name: found.columns[:, i].tolist() for i, name in enumerate(names)},
    }
    with GatewayClient.of(settings) as gateway:
        answer = gateway.post(f"/v1/models/{model}/rank", body)
    if as_json:
        typer.echo(msgspec.json.encode(answer).decode())
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("", justify="right")
    table.add_column("score", justify="right")
    for title in ("definition", "what it does", "where"):
        table.add_column(title, overflow="fold")
    for item in answer["items"]:
        shown = index.show(item["id"])
        table.add_row(
            str(item["position"]),
            f"{item['score']:.2f}",
            f"{shown.item_id}{shown.signature}",
            shown.summary,
            shown.place,
        )
    console = Console()
    console.print(table)
    stages = answer["stages_ms"]
    console.print(
        f"\n{len(found.item_ids)} candidates ranked by {answer['model']}@{answer['version']} ({answer['arm']}) "
        f"in {stages['total']:.1f} ms, ranking {answer['ranking_id']}",
        highlight=False,
    )
    if answer["degraded"]:
        console.print(f"[yellow]degraded: {', '.join(answer['degraded'])}")
