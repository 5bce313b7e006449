"""How the state of the processes is shown: as a table, or as one line for each change. How wide tables are."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from deploy.machine.state import PlatformState
from deploy.machine.supervision import Phase

_COLOURS = {
    Phase.READY: "green",
    Phase.STARTING: "yellow",
    Phase.WAITING: "dim",
    Phase.RESTARTING: "red",
    Phase.FAILED: "bold red",
    Phase.STOPPING: "yellow",
    Phase.STOPPED: "dim",
}
_ANY_WIDTH = 10_000


def process_table(state: PlatformState, now_s: float) -> Table:
    """One row a process. now_s: seconds since the epoch."""
    table = Table(
        "process", "state", "for", "pid", "restarts", "last exit", box=None, pad_edge=False, header_style="bold"
    )
    for process in state.processes:
        table.add_row(
            process.name,
            f"[{_COLOURS[process.phase]}]{process.phase}[/]",
            duration(now_s - process.since_s),
            str(process.pid or ""),
            str(process.restarts or ""),
            process.last_exit,
        )
    return table


def print_whole(console: Console, table: Table) -> None:
    """A line a row, however narrow the console is: names and figures are not cut, and a script finds them."""
    told = console.width
    console.width = max(told, console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum)
    try:
        console.print(table)
    finally:
        console.width = told


def duration(seconds: float) -> str:
    """
    >>> duration(7.2), duration(130), duration(7500), duration(200_000)
    ('7 s', '2 min', '2 h', '2 d')
    """
    for unit, unit_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {unit}"
    return f"{int(max(0.0, seconds))} s"


class StateView:
    """Shows states as they come: a live table on a terminal, elsewhere a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._seen: dict[str, Phase] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, state: PlatformState) -> None:
        """The newest state."""
        if self._live:
            self._live.update(process_table(state, time.time()), refresh=True)
            return
        for process in state.processes:
            if self._seen.get(process.name) is not process.phase:
                self._seen[process.name] = process.phase
                self._console.print(f"{process.name} {process.phase}", highlight=False)
