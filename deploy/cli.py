"""`sluice`: the command line. Commands live in `commands/`, one module each, loaded when asked for."""

import importlib
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from deploy.errors import SluiceError

COMMANDS = {
    "up": "deploy.commands.up:up",
    "run": "deploy.commands.run:run",
    "down": "deploy.commands.down:down",
    "status": "deploy.commands.status:status",
    "logs": "deploy.commands.logs:logs",
    "demo": "deploy.commands.demo:demo",
    "rank": "deploy.commands.rank:rank",
    "promote": "deploy.commands.promote:promote",
    "rollback": "deploy.commands.promote:rollback",
    "rollout": "deploy.commands.rollout:rollout",
    "deliver": "deploy.commands.deliver:deliver",
    "retrain": "deploy.commands.runs:retrain",
    "runs": "deploy.commands.runs:runs",
    "keys": "deploy.commands.keys:keys",
    "certificates": "deploy.commands.certificates:certificates",
    "edges": "deploy.commands.edges:edges",
    "console": "deploy.commands.console:console",
    "audit": "deploy.commands.audit:audit",
    "models": "deploy.commands.models:models",
    "drift": "deploy.commands.drift:drift",
    "features": "deploy.commands.features:features",
    "simulate": "deploy.commands.simulate:simulate",
    "capacity": "deploy.commands.capacity:capacity",
}
"""Name and place of each command: a function, or a `typer.Typer` with commands of its own."""

EPILOG = (  # its line breaks are shown as they are
    "Settings are environment variables, SLUICE_HOME first (default ./.sluice). SLUICE_URL and SLUICE_KEY send "
    "promote, rollback, rollout, deliver, retrain, runs, keys, audit, console, drift report and drift rebaseline to a "
    "platform elsewhere.\n\n"
    "Exit codes: 0 ok, 1 failed, 2 wrong usage or setting, 3 runs but is not all ready, 4 not running; those of "
    "deliver: see its help."
)


class _LazyGroup(TyperGroup):
    """Imports a command's module when the command is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, typer.Typer):
            alone = typer.Typer(add_completion=False)
            alone.command()(command)
            command = alone
        made = typer.main.get_command(command)
        made.name = cmd_name
        return made


app = typer.Typer(
    cls=_LazyGroup, no_args_is_help=True, epilog=EPILOG, pretty_exceptions_enable=False, add_completion=False
)


@app.callback()
def sluice() -> None:
    """Serve ranking models, watch what flows through, let only a measurably better model in."""


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="sluice")
    except SluiceError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
