"""ReplicaRecord: what a worker says of itself, so that gateways on any machine find it."""

import msgspec

from registry.contracts.errors import UNDECODABLE, ContractError


class ReplicaRecord(msgspec.Struct, frozen=True):
    """address: where gateways connect, `unix:/path` or `tcp:host:port`; two replicas never share one.

    replica: its name in logs and states. device: what it computes on (`cpu`, `cuda:0`).
    pid, started_ms: which process it is; a restarted replica at the same address is another one.
    capacity: rows in one forward pass. draining: it answers what it has and wants no more.
    """

    address: str
    replica: str
    device: str
    pid: int
    started_ms: int
    capacity: int
    draining: bool = False

    def is_same_process(self, other: "ReplicaRecord") -> bool:
        """Whether both were written by one process."""
        return (self.pid, self.started_ms) == (other.pid, other.started_ms)

    def encode(self) -> bytes:
        """Canonical JSON."""
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(raw: bytes) -> "ReplicaRecord":
        """Raises ContractError naming what does not fit."""
        try:
            return msgspec.json.decode(raw, type=ReplicaRecord)
        except UNDECODABLE as error:
            raise ContractError(f"not a replica's record: {error}") from error
