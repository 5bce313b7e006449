"""Which mirror events came lately."""

from collections import OrderedDict

import xxhash

REMEMBERED = 1 << 16


class Recent:
    """The last event ids that came, as 8-byte digests: gateways may write an event again after
    a crash, within moments.

    >>> recent = Recent()
    >>> recent.is_new("a"), recent.is_new("a")
    (True, False)
    """

    def __init__(self, known: bytes = b"", remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._digests = OrderedDict.fromkeys(known[i : i + 8] for i in range(0, len(known), 8))

    def is_new(self, event_id: str) -> bool:
        """Whether it did not come lately; it has now."""
        digest = xxhash.xxh3_64_digest(event_id.encode())
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > self._remembered:
            self._digests.popitem(last=False)
        return True

    def to_bytes(self) -> bytes:
        """Oldest first, as the constructor takes them."""
        return b"".join(self._digests)
