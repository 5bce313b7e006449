"""How long a connection may take, and how much it may say before it is understood.

A client that sends a byte now and then, or reads none, costs a place and memory for as long as it likes: what it may
take of either is bounded. Whoever sends and reads at a modem's speed is not met by any of this.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """head_s: from connecting, or from a request's first byte, to the end of its head. body_s: for its body, and
    beside that as long as what has come of it takes at bytes_a_s. read_s: without reading an answer that is too
    long to wait in buffers. head_bytes, headers: of one head.
    """

    head_s: float = 10.0
    body_s: float = 10.0
    bytes_a_s: float = 4096.0
    read_s: float = 30.0
    head_bytes: int = 64 << 10
    headers: int = 128
