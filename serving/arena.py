"""Memory that a gateway shares with a worker: tensors are written once and read where they lie.

Each connection to a worker on the same machine has one arena: an anonymous file (memfd) whose
descriptor travels over the socket, so that nothing is named, nothing is left behind by a kill, and
nobody else can map it. The gateway alone takes and gives blocks; the worker reads a request's
block and may write the answer into it. A worker that died gets a fresh arena.
"""

import mmap
import os
from collections import defaultdict

ALIGNMENT_BYTES = 64
SMALLEST_BLOCK_BYTES = 4096


class Arena:
    """The owner's side. Blocks come in powers of two and are cut from the front as they are needed,
    so that pages never used never exist; a block given back is the next one taken of its size.

    capacity_bytes: of all blocks. Raises OSError where there are no anonymous files.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.file = os.memfd_create("sluice-arena", os.MFD_CLOEXEC)
        os.ftruncate(self.file, capacity_bytes)
        self._map = mmap.mmap(self.file, capacity_bytes)
        self.memory = memoryview(self._map)
        self.capacity_bytes = capacity_bytes
        self._free: dict[int, list[int]] = defaultdict(list)
        self._cut_bytes = 0

    def take(self, size: int) -> int | None:
        """Where a block of at least `size` bytes starts; None if there is no room for it."""
        block = _block_bytes(size)
        free = self._free[block]
        if free:
            return free.pop()
        start = self._cut_bytes
        if start + block > self.capacity_bytes:
            return None
        self._cut_bytes = start + block
        return start

    def give(self, start: int, size: int) -> None:
        """Takes back the block that `take(size)` gave."""
        self._free[_block_bytes(size)].append(start)

    def close(self) -> None:
        """Unmaps it once nobody looks at its memory any more."""
        os.close(self.file)
        self.memory.release()
        try:
            self._map.close()
        except BufferError:  # an answer's view outlives the worker: the mapping goes with it
            return


def attach(file: int, capacity_bytes: int) -> memoryview:
    """The worker's side: the arena behind a received descriptor, which is closed.

    Raises OSError or ValueError if the file is not as large as its owner says.
    """
    try:
        return memoryview(mmap.mmap(file, capacity_bytes))
    finally:
        os.close(file)


def _block_bytes(size: int) -> int:
    return max(SMALLEST_BLOCK_BYTES, 1 << (size - 1).bit_length())
