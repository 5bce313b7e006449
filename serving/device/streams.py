"""What a device is to a ranker: memory, streams of work, events between them, captured graphs.

The order of work is told here and nowhere else: work of one stream runs in the order in which it
was given, and after every event that the stream was told to wait for. `CpuDevice` computes at
once, which is one such order; `CudaDevice` leaves it to the GPU.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Work = Callable[[], None]
WARM_UP_PASSES = 3  # cuBLAS and others allocate on the first ones


class Event(Protocol):
    """A moment in a stream."""

    def wait(self) -> None:
        """Holds the calling thread up until the moment is over. Raises what the work raised."""
        ...

    def us_since(self, earlier: Any) -> float:
        """Microseconds from an earlier event of the same device; both are over."""
        ...


class Stream(Protocol):
    """Work in order."""

    def run(self, work: Work) -> None:
        """Does the work when its turn comes; what it needs must not change before."""
        ...

    def record(self) -> Event:
        """The moment after everything given so far."""
        ...

    def after(self, event: Any) -> None:
        """What is given from now on waits for the event, of another stream of this device."""
        ...


class Device(Protocol):
    """Where programs run. torch_device: in torch's words."""

    torch_device: torch.device

    def stream(self) -> Stream:
        """A stream of its own."""
        ...

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """Memory that any stream may use from now on, of unknown content."""
        ...

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Host memory, uint8, that is copied to and from the device without a detour."""
        ...

    def settle(self) -> None:
        """Waits for what this thread did outside of streams, so that every stream may rely on it."""
        ...

    def captured(self, work: Work) -> Work:
        """The same work, with a single launch. It may be done a few times before, uses memory whose
        addresses stay, and asks for no value on the host. Raises RuntimeError if it cannot be captured."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """The streams of a process: one that computes, and one for the copies of each direction."""

    device: Device
    copy_in: Stream
    compute: Stream
    copy_out: Stream

    @staticmethod
    def of(device: Device) -> "Lane":
        return Lane(device, device.stream(), device.stream(), device.stream())


class CpuEvent:
    """The moment it was made."""

    def __init__(self) -> None:
        self._at_s = time.perf_counter()

    def wait(self) -> None:
        """Nothing to wait for."""

    def us_since(self, earlier: "CpuEvent") -> float:
        """See `Event`."""
        return (self._at_s - earlier._at_s) * 1e6


class CpuStream:
    """Does all work at once."""

    def run(self, work: Work) -> None:
        """See `Stream`."""
        work()

    def record(self) -> CpuEvent:
        """See `Stream`."""
        return CpuEvent()

    def after(self, event: CpuEvent) -> None:
        """Whatever was recorded is over."""


class CpuDevice:
    """The host as a device."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cpu")

    def stream(self) -> CpuStream:
        """See `Device`."""
        return CpuStream()

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Device`."""
        return torch.empty(*shape, dtype=dtype)

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """See `Device`."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def settle(self) -> None:
        """It is done already."""

    def captured(self, work: Work) -> Work:
        """The work itself: launches cost nothing here."""
        work()
        return work


class CudaEvent:
    """A CUDA event that keeps time."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record(stream)

    def wait(self) -> None:
        """See `Event`."""
        self.event.synchronize()

    def us_since(self, earlier: "CudaEvent") -> float:
        """See `Event`."""
        return float(earlier.event.elapsed_time(self.event)) * 1000


class CudaStream:
    """A CUDA stream."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Work) -> None:
        """Enqueues it."""
        with torch.cuda.stream(self._stream):
            work()

    def record(self) -> CudaEvent:
        """See `Stream`."""
        return CudaEvent(self._stream)

    def after(self, event: CudaEvent) -> None:
        """See `Stream`."""
        self._stream.wait_event(event.event)


class CudaDevice:
    """One GPU. Raises RuntimeError if there is none."""

    def __init__(self, device: torch.device) -> None:
        self.torch_device = torch.device(
            "cuda", device.index if device.index is not None else torch.cuda.current_device()
        )
        self._renew()

    def stream(self) -> CudaStream:
        """See `Device`."""
        return CudaStream(self.torch_device)

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """See `Device`."""
        memory = torch.empty(*shape, dtype=dtype, device=self.torch_device)
        # the allocator orders reuse within the allocating stream alone: let what used it before end
        self.settle()
        return memory

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """See `Device`."""
        return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def settle(self) -> None:
        """See `Device`."""
        torch.cuda.current_stream(self.torch_device).synchronize()

    def captured(self, work: Work) -> Work:
        """A CUDA graph of the work. Other threads may go on using the device meanwhile."""
        before = torch.cuda.current_stream(self.torch_device)
        self._capturing.wait_stream(before)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.stream(self._capturing):
                for _ in range(WARM_UP_PASSES):
                    work()
            self._capturing.synchronize()
            with torch.cuda.graph(graph, pool=self._pool, stream=self._capturing, capture_error_mode="thread_local"):
                work()
        except RuntimeError:
            # torch leaves the broken capture's stream current, and its pool counts as being captured into
            torch.cuda.set_stream(before)
            self._renew()
            raise
        replay: Work = graph.replay
        return replay

    def _renew(self) -> None:
        # graphs of one pool reuse each other's memory: they are replayed on one stream, and what
        # they give is copied out within the capture
        self._pool = torch.cuda.graph_pool_handle()
        self._capturing = torch.cuda.Stream(self.torch_device)  # type: ignore[no-untyped-call]


def open_device(name: str) -> Device:
    """The device of that name in torch's words: `cpu`, `cuda`, `cuda:1`.

    Raises RuntimeError if torch does not find it.
    """
    device = torch.device(name)
    return CpuDevice() if device.type == "cpu" else CudaDevice(device)
