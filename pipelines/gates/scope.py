"""Which lists an online gate is about, and the looks and chunks that their time is cut into."""

import hashlib
from collections.abc import Iterator
from math import ceil
from typing import Literal

import msgspec

CHUNK_MS = 3_600_000


class GateScope(msgspec.Struct, frozen=True, kw_only=True):
    """Which lists a gate is about. JSON-able: it stands in evidence, so that they can be read again.

    since_ms: the step began. plan_revision: its plan; lists by an older one do not count. experiment: its name,
    of the challenger's arm and of drafts. look_ms: of a look; clicks_within_ms: a list waits so long for its clicks.
    before_ms: the rollout began; history_ms: of time before it, whose means CUPED uses, 0 for none.
    simulated: whose clicks count. scoring: of drafts. control: buckets of the layer, by its salt, whose units are
    the champion's arm in all plans of the step: (first, last + 1) each; none: all that are in the champion's arm.
    """

    model: str
    kind: Literal["ab", "interleaving"]
    experiment: str
    since_ms: int
    plan_revision: int
    look_ms: int
    clicks_within_ms: int
    before_ms: int
    history_ms: int = 0
    simulated: bool = False
    scoring: Literal["clicks", "wins"] = "clicks"
    salt: str = ""
    control: tuple[tuple[int, int], ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of its canonical JSON, 64 digits."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()

    @property
    def chunk_ms(self) -> int:
        """Of a chunk: an hour at most, and a look is a whole number of them but for rounding."""
        return ceil(self.look_ms / ceil(self.look_ms / CHUNK_MS))

    def closed_looks(self, as_of_ms: int) -> int:
        """Looks that are over, their clicks too."""
        return max(0, (as_of_ms - self.clicks_within_ms - self.since_ms) // self.look_ms)

    def chunks(self, as_of_ms: int) -> Iterator[tuple[int, int, int]]:
        """Look, begin and end of every chunk that has a list whose clicks have come by then."""
        last_ms = as_of_ms - self.clicks_within_ms
        look, begin_ms = 1, self.since_ms
        while begin_ms <= last_ms:
            look_ends_ms = self.since_ms + look * self.look_ms
            end_ms = min(begin_ms + self.chunk_ms, look_ends_ms)
            yield look, begin_ms, end_ms
            begin_ms = end_ms
            look += end_ms == look_ends_ms
