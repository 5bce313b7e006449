"""Something on its way, shown as it comes."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live


class LiveView:
    """Shows what the control API says of one thing: live on a terminal, elsewhere a line for each change.

    console: None for nothing at all. draw: the whole of it, at a moment in ms since the epoch; line: in one line.
    """

    def __init__(
        self, console: Console | None, draw: Callable[[Any, int], RenderableType], line: Callable[[Any], str]
    ) -> None:
        self._console, self._draw, self._line = console, draw, line
        self._live = Live(console=console, auto_refresh=False) if console and console.is_terminal else None
        self._said = ""

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def show(self, found: Any, now_ms: int) -> None:
        """The newest of it."""
        if self._live:
            self._live.update(self._draw(found, now_ms), refresh=True)
        elif self._console and (line := self._line(found)) != self._said:
            self._said = line
            self._console.print(line, highlight=False, soft_wrap=True)
