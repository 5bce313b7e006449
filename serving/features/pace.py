"""How many rows one command to Redis carries: as many as Redis takes without holding readers up."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChunkPace:
    """The next chunk's size from how the last one went.

    Redis runs one command at a time: while it takes a chunk, no worker's MGET is answered. So a
    chunk may take `target_s`, and not be as large as possible.
    """

    target_s: float = 0.005
    min_rows: int = 20
    max_rows: int = 4000

    def __post_init__(self) -> None:
        if not (self.target_s > 0 and 1 <= self.min_rows <= self.max_rows):
            raise ValueError(f"{self}: expected target_s > 0 and 1 <= min_rows <= max_rows")

    def next_rows(self, rows: int, took_s: float) -> int:
        """rows: of a chunk that Redis took in `took_s`. Doubles at most, and falls to what would
        have met the target, but to no less than a quarter: one slow answer says little.

        >>> ChunkPace(target_s=0.01).next_rows(400, took_s=0.001)
        800
        >>> ChunkPace(target_s=0.01).next_rows(400, took_s=0.02)
        200
        """
        share = min(2.0, max(0.25, self.target_s / max(took_s, 1e-9)))
        if 0.75 < share < 1.5:
            return rows  # near enough: no swinging
        return max(self.min_rows, min(self.max_rows, int(rows * share)))
