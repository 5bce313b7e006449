"""`sluice rollout`: a challenger's way to champion."""

import typer

from deploy.commands.rank_diff import diff

rollout = typer.Typer(help="A challenger's way to champion: diff.", no_args_is_help=True)
rollout.command("diff")(diff)


@rollout.callback()
def _group() -> None:
    """With one command alone, typer would not make it a group."""
