"""`sluice console`: the console, signed in."""

import getpass
import os
import re
import signal
import threading
import webbrowser
from typing import Annotated, Any
from urllib.parse import quote

import typer

from deploy.control.client import ControlClient
from deploy.errors import SluiceError

LONGEST_S = 12 * 3600  # of a command that is killed, the key ends by itself
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._@-]")


def console(
    model: Annotated[str, typer.Option(help="The model to look at first.")] = "",
    open_it: Annotated[bool, typer.Option("--open", help="Open it in this machine's browser.")] = False,
) -> None:
    """Make a viewer's key, show the console's address with it, and take the key back on Ctrl-C or after 12 hours.

    The key is behind the address's #, which browsers send to nobody; the page takes it out of the address at once.
    """
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stopped.set())
    with ControlClient.of(os.environ) as control:
        name = f"console-{_NOT_IN_NAMES.sub('-', getpass.getuser())}"[:64]
        body = {"name": name, "role": "viewer", "models": [model] if model else [], "expires_in_s": LONGEST_S}
        made: dict[str, Any] = control.post("/v1/keys", body)
        try:
            address = f"{control.url.rstrip('/')}/console/#key={made['key']}"
            address += f"&model={quote(model, safe='')}" if model else ""
            typer.echo(address)
            typer.echo("whoever has this address may look until this command ends (Ctrl-C)", err=True)
            if open_it and not webbrowser.open(address):
                raise SluiceError("no browser could be opened", "open the address above yourself, without --open")
            stopped.wait(LONGEST_S)
        finally:
            control.post(f"/v1/keys/{quote(made['about']['id'], safe='')}/revoke")
