"""Devices for tests: streams whose work is done late, in any order that their events allow."""

from collections.abc import Callable, Sequence

import torch

from serving.device.streams import CpuDevice, Work


class ShuffledDevice(CpuDevice):
    """A CPU whose streams do nothing until somebody waits.

    Then one step after another is taken from a stream that may go on, chosen by `choose` (given how
    many there are): work that the events do not order is done in every order sooner or later.
    """

    def __init__(self, choose: Callable[[int], int]) -> None:
        super().__init__()
        self._choose = choose
        self.streams: list[ShuffledStream] = []

    def stream(self) -> "ShuffledStream":  # type: ignore[override]
        """See `Device`."""
        self.streams.append(ShuffledStream(self))
        return self.streams[-1]

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Poisoned: whoever reads what was not written sees it."""
        memory = super().empty(shape, dtype)
        return memory.fill_(float("nan") if dtype.is_floating_point else 99)

    def until(self, over: Callable[[], bool]) -> None:
        """Takes steps until it is over. Fails where nothing can go on: a deadlock on a device."""
        while not over():
            able = [stream for stream in self.streams if stream.able()]
            assert able, "every stream waits for an event that nobody will record"
            able[self._choose(len(able))].step()


class ShuffledEvent:
    """Over when its stream has come to it."""

    def __init__(self, device: ShuffledDevice) -> None:
        self._device, self.over = device, False

    def wait(self) -> None:
        """See `Event`."""
        self._device.until(lambda: self.over)

    def us_since(self, earlier: "ShuffledEvent") -> float:
        """Time means nothing here."""
        assert self.over and earlier.over
        return 1.0


class ShuffledStream:
    """Steps to do: work, an event to record (marks it over), or one to wait for."""

    def __init__(self, device: ShuffledDevice) -> None:
        self._device = device
        self._steps: list[Work | ShuffledEvent] = []
        self._waits: dict[int, ShuffledEvent] = {}  # before the step of this number
        self._taken = 0

    def run(self, work: Work) -> None:
        """See `Stream`."""
        self._steps.append(work)

    def record(self) -> ShuffledEvent:
        """See `Stream`."""
        event = ShuffledEvent(self._device)
        self._steps.append(event)
        return event

    def after(self, event: ShuffledEvent) -> None:
        """See `Stream`."""

        def nothing() -> None:
            pass

        self._waits[self._taken + len(self._steps)] = event
        self._steps.append(nothing)

    def able(self) -> bool:
        """Whether there is a step that may be taken."""
        waits_for = self._waits.get(self._taken)
        return bool(self._steps) and (waits_for is None or waits_for.over)

    def step(self) -> None:
        """Takes it."""
        step = self._steps.pop(0)
        self._taken += 1
        if isinstance(step, ShuffledEvent):
            step.over = True
        else:
            step()
