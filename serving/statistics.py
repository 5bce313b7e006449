"""What each loaded version has done so far, as the Open Inference Protocol's statistics count it.

Workers count, and tell their gateways now and then; a gateway adds its replicas up.
"""

from collections.abc import Iterable

import msgspec

from serving.frames import Kind, decoded, message


class Spent(msgspec.Struct, array_like=True):
    """How often, and nanoseconds in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """Counts some more."""
        self.count += count
        self.ns += ns


class BatchSpent(msgspec.Struct, array_like=True):
    """Batches of one size: gathering their inputs, computing them, and making their answers."""

    gather: Spent = msgspec.field(default_factory=Spent)
    device: Spent = msgspec.field(default_factory=Spent)
    answer: Spent = msgspec.field(default_factory=Spent)


class VersionStatistics(msgspec.Struct, array_like=True):
    """Cumulative since the version was loaded. requests: rankings and tensor requests alike.

    inferences: rows. executions: forward passes. queue, gather, device, answer: of requests that
    succeeded; answer is from the end of the computation until the replies are made and encoded.
    success: all of these. batches: by the number of requests that went together.
    """

    model: str
    version: int
    last_ms: int = 0
    inferences: int = 0
    executions: int = 0
    success: Spent = msgspec.field(default_factory=Spent)
    failed: Spent = msgspec.field(default_factory=Spent)
    queue: Spent = msgspec.field(default_factory=Spent)
    gather: Spent = msgspec.field(default_factory=Spent)
    device: Spent = msgspec.field(default_factory=Spent)
    batches: dict[int, BatchSpent] = {}
    answer: Spent = msgspec.field(default_factory=Spent)

    def batch(
        self,
        requests: int,
        failed: int,
        rows: int,
        queue_us: float,
        gather_us: float,
        device_us: float,
        answer_us: float = 0.0,
    ) -> None:
        """One forward pass of so many requests. queue_us: of all of them added up; the others of the pass."""
        done = requests - failed
        gather_ns, device_ns = int(gather_us * 1000), int(device_us * 1000)
        queue_ns = int(queue_us * 1000)
        self.executions += 1
        self.inferences += rows
        self.queue.add(done, queue_ns)
        self.gather.add(done, gather_ns * done)
        self.device.add(done, device_ns * done)
        self.answer.add(done, 0)
        self.success.add(done, queue_ns + (gather_ns + device_ns) * done)
        if failed:
            self.failed.add(failed, (gather_ns + device_ns) * failed)
        spent = self.batches.get(requests)
        if spent is None:
            spent = self.batches[requests] = BatchSpent()
        spent.gather.add(1, gather_ns)
        spent.device.add(1, device_ns)
        spent.answer.add(1, 0)
        self.answered(requests, done, answer_us)

    def answered(self, requests: int, done: int, answer_us: float) -> None:
        """So much more went into the answers of a pass of so many requests, of which `done` succeeded."""
        answer_ns = int(answer_us * 1000)
        self.answer.ns += answer_ns * done
        self.success.ns += answer_ns * done
        if (spent := self.batches.get(requests)) is not None:
            spent.answer.ns += answer_ns


_decoder = msgspec.msgpack.Decoder(list[VersionStatistics])


def encode_statistics(versions: Iterable[VersionStatistics]) -> bytes:
    """The frame's bytes."""
    return message(Kind.STATISTICS, list(versions))


def decode_statistics(body: bytes) -> list[VersionStatistics]:
    """Raises BrokenFrame if it holds none."""
    return decoded(_decoder, body)


def total(parts: Iterable[VersionStatistics]) -> dict[tuple[str, int], VersionStatistics]:
    """By model and version, added up over replicas."""
    totals: dict[tuple[str, int], VersionStatistics] = {}
    for part in parts:
        into = totals.setdefault((part.model, part.version), VersionStatistics(part.model, part.version))
        into.last_ms = max(into.last_ms, part.last_ms)
        into.inferences += part.inferences
        into.executions += part.executions
        for name in ("success", "failed", "queue", "gather", "device", "answer"):
            spent: Spent = getattr(part, name)
            getattr(into, name).add(spent.count, spent.ns)
        for requests, batch in part.batches.items():
            sum_of = into.batches.setdefault(requests, BatchSpent())
            sum_of.gather.add(batch.gather.count, batch.gather.ns)
            sum_of.device.add(batch.device.count, batch.device.ns)
            sum_of.answer.add(batch.answer.count, batch.answer.ns)
    return totals
