"""What a query costs in each process, as measured: lines over its candidates."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.errors import SluiceError

SHIPPED = Path(__file__).parent / "stages.json"


@dataclass(frozen=True, slots=True)
class Cost:
    """fixed: of one query (or batch); per_candidate: of each of its candidates. Microseconds, or bytes.

    >>> Cost(100.0, 0.5).of(100)
    150.0
    """

    fixed: float
    per_candidate: float

    def of(self, candidates: float) -> float:
        """Of so many candidates."""
        return self.fixed + self.per_candidate * candidates

    @staticmethod
    def through(few: int, few_cost: float, many: int, many_cost: float) -> "Cost":
        """The line through two measurements that neither falls nor starts below zero.

        >>> Cost.through(100, 150.0, 1000, 600.0)
        Cost(fixed=100.0, per_candidate=0.5)
        """
        slope = max(0.0, (many_cost - few_cost) / (many - few))
        fixed = few_cost - slope * few
        return Cost(fixed, slope) if fixed >= 0 else Cost(0.0, few_cost / few)


@dataclass(frozen=True, slots=True)
class StageCosts:
    """Microseconds of CPU a query, each line of one process.

    date, machine, columns: when and where it was measured, and with rows of how many columns. gateway, archiver, redis:
    of a query. worker: of a query apart from the forward pass. gateway_turn, worker_batch: of a turn of a gateway's
    loop and of a worker's batch, beside that of each query in it: waking up, finding caches cold, a few hundred calls.
    forward: of one pass of a batch on a CPU core, fixed and for each candidate. monitor: of an answer that the drift
    monitor counts. redis_row: Redis' own microseconds for a row that no tier held. invalidation: a worker's
    microseconds for a changed row. event: bytes of a query in the event stream; archive: of the same in Parquet."""

    date: str
    machine: str
    columns: int
    gateway: Cost
    gateway_turn: float
    worker: Cost
    worker_batch: float
    forward: Cost
    archiver: Cost
    redis: Cost
    monitor: Cost
    redis_row: float
    invalidation: float
    event: Cost
    archive: Cost

    def __post_init__(self) -> None:
        for name in ("gateway", "worker", "forward", "archiver", "redis", "monitor", "event", "archive"):
            cost: Cost = getattr(self, name)
            if not (cost.fixed >= 0 and cost.per_candidate >= 0 and 0 < cost.of(100) < 1e9):
                raise ValueError(f"{name}: expected microseconds or bytes that are 0 or more and not all 0")
        for name in ("gateway_turn", "worker_batch", "redis_row", "invalidation"):
            if not 0 <= getattr(self, name) < 1e6:
                raise ValueError(f"{name}: expected 0 <= microseconds < 1000000")


def load(path: Path = SHIPPED) -> StageCosts:
    """From a file. Raises SluiceError if it is not there or is no profile of costs."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=StageCosts)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise SluiceError(f"{path}: {error}", f"sluice capacity --measure {path}") from error


def save(costs: StageCosts, path: Path) -> None:
    """So that `load` reads it again. Raises SluiceError if it cannot be written."""
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=2) + b"\n")
    except OSError as error:
        raise SluiceError(f"{path}: {error}", "a path in a folder that you may write") from error
