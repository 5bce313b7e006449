"""What a loaded version takes of its device's memory, measured while it was loaded and warmed up."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc(5)


@dataclass(frozen=True, slots=True)
class Footprint:
    """program_bytes: its weights and constants. peak_bytes: what its largest warm-up batch took
    beyond that. slabs: bytes of its feature slabs by their layout; versions of one layout share one."""

    program_bytes: int = 0
    peak_bytes: int = 0
    slabs: Mapping[str, int] = field(default_factory=dict)


NOTHING = Footprint()


def together(footprints: Iterable[Footprint]) -> int:
    """Bytes of several versions on one device: programs add up, batches run one at a time, slabs are
    shared.

    >>> together([Footprint(10, 5, {"a": 100}), Footprint(20, 3, {"a": 100})])
    135
    """
    listed = list(footprints)
    slabs = {layout: size for one in listed for layout, size in one.slabs.items()}
    peak_bytes = max((one.peak_bytes for one in listed), default=0)
    return sum(one.program_bytes for one in listed) + peak_bytes + sum(slabs.values())


class PeakMemory:
    """By how much memory grew at its highest, while this context was open.

    On a CUDA device what torch's allocator holds; on the CPU what the process has resident (Linux;
    elsewhere 0). What other threads take meanwhile is counted too: an upper bound.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self.bytes = 0

    def __enter__(self) -> Self:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            try:
                _CLEAR.write_text(_RESET_PEAK)
            except OSError:
                self._before = -1  # not Linux, or not allowed to ask
            else:
                self._before = _resident("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._device.startswith("cuda"):
            import torch

            self.bytes = max(0, torch.cuda.max_memory_allocated(self._device) - self._before)
        elif self._before >= 0:
            self.bytes = max(0, _resident("VmHWM") - self._before)


def _resident(name: str) -> int:
    """Bytes, by the line's name in /proc/self/status."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
