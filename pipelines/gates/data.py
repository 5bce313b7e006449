"""The archive as an online gate sees it: the lists of a step by arm, look and unit, each with what was clicked.

- Time since the step began is cut into looks, and those into chunks of an hour at most (`scope`). A chunk whose
  clicks have come is cleaned once, summed by unit (`chunks`) and kept on disk, under the digest of what was asked for
  and of the archive's files that it was made of: nothing is read again each minute, a restart makes the same bytes,
  and what comes into the archive late makes another chunk.
- Both arms are cleaned by the same rules (`cleaned_lists`). Who was found a bot counts no more from that look on;
  what a closed look was judged on does not change afterwards.
- Clicks of people and of simulated users are never mixed: a gate counts the ones or the others, and says how many
  of the other kind there were.
- The means that CUPED compares a list with, of its unit and of its query, are of the champion's lists from before
  the rollout began: nothing after can be in them.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.durable import replace_file
from pipelines.feedback.cleaning import CleaningRules, DroppedFeedback, DroppedRanking, faults
from pipelines.gates.chunks import Chunk, Means, history, open_chunk, summed
from pipelines.gates.gate_lists import AbLists, InterleavedLists
from pipelines.gates.scope import GateScope
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.traffic import Arm

OTHER_KIND_LIMIT = 0.01
"""Share of clicks of the kind that does not count, over which the two kinds of users are taken to be mixed."""
AB_ARMS: tuple[Arm, ...] = ("champion", "challenger")
_FORM = 1  # of chunks on disk: another one where lists are cleaned or summed in another way


class GateQuality(msgspec.Struct, frozen=True, kw_only=True):
    """What the data were like, as `cleaning.QualityReport`, of all chunks together.

    clicks: that count; other_clicks: of people if the gate counts simulated ones, else simulated. without_unit:
    lists that are nobody's. faults: in words; none if the data are good.
    """

    rankings: int = 0
    kept_rankings: int = 0
    dropped_rankings: dict[str, int] = {}
    feedback: int = 0
    kept_feedback: int = 0
    dropped_feedback: dict[str, int] = {}
    clicks: int = 0
    other_clicks: int = 0
    without_unit: int = 0
    bots: int = 0
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GateSample:
    """All that a gate is judged on as of a moment. closed: looks that are over."""

    seen: AbLists | InterleavedLists
    quality: GateQuality
    closed: int


@dataclass(frozen=True, slots=True)
class GateData:
    """archive: read. folder: where chunks are kept. rules: of cleaning; their window is the scope's."""

    archive: Archive
    folder: Path
    rules: CleaningRules = field(default_factory=CleaningRules)

    def read(self, scope: GateScope, as_of_ms: int) -> GateSample:
        """The lists whose clicks have come by then. The same archive gives the same bytes.

        Raises DataRefused if the archive is damaged, OSError if a disk refuses.
        """
        rules = _rules(self.rules, scope)
        means = self._means(scope)
        chunks = [
            (look, self._chunk(scope, rules, means, begin_ms, end_ms, as_of_ms))
            for look, begin_ms, end_ms in scope.chunks(as_of_ms)
        ]
        closed = scope.closed_looks(as_of_ms)
        return GateSample(_together(scope, chunks, closed), _quality([one for _, one in chunks], rules), closed)

    def forget(self, keep: frozenset[str]) -> None:
        """Drops the chunks of all scopes but these digests."""
        if not self.folder.is_dir():
            return
        for there in self.folder.iterdir():
            if there.name not in keep:
                shutil.rmtree(there, ignore_errors=True)

    def _chunk(
        self, scope: GateScope, rules: CleaningRules, means: Means | None, begin_ms: int, end_ms: int, as_of_ms: int
    ) -> Chunk:
        clicks_until_ms = end_ms + scope.clicks_within_ms
        if as_of_ms < clicks_until_ms:
            return open_chunk(self.archive, scope, rules, means, begin_ms, end_ms, as_of_ms)
        made_of = self.archive.fingerprint(scope.model, begin_ms - scope.clicks_within_ms, clicks_until_ms)
        before = means.made_of if means else ""
        name = _named(scope.digest, rules, begin_ms, end_ms, made_of, before)
        path = self.folder / scope.digest / f"{begin_ms}-{name}.npz"
        if (kept := Chunk.load(path)) is not None:
            return kept
        made = open_chunk(self.archive, scope, rules, means, begin_ms, end_ms, clicks_until_ms)
        replace_file(path, made.encode())
        for old in path.parent.glob(f"{begin_ms}-*.npz"):
            if old != path:
                old.unlink(missing_ok=True)
        return made

    def _means(self, scope: GateScope) -> Means | None:
        """Of the champion's lists before the rollout; None without history or covariates."""
        if not scope.history_ms or scope.kind != "ab":
            return None
        since_ms = scope.before_ms - scope.history_ms
        made_of = self.archive.fingerprint(scope.model, since_ms - scope.clicks_within_ms, scope.before_ms + 1)
        name = _named(scope.digest, self.rules, since_ms, scope.before_ms, made_of, "")
        path = self.folder / scope.digest / f"means-{name}.npz"
        if (kept := Means.load(path, made_of)) is not None:
            return kept
        made = Means.of(history(self.archive, scope, _rules(self.rules, scope)), made_of)
        replace_file(path, made.encode())
        return made


def _together(scope: GateScope, chunks: Sequence[tuple[int, Chunk]], closed: int) -> AbLists | InterleavedLists:
    """All chunks as one, without the bots from the look on in which they were found."""
    units = _joined([chunk.units for _, chunk in chunks], np.int64)
    looks = _joined([np.full(len(chunk.units), look, dtype=np.int64) for look, chunk in chunks], np.int64)
    arms = _joined([chunk.in_challenger for _, chunk in chunks], np.bool_)
    counts = _joined([chunk.counts for _, chunk in chunks], np.int64)
    columns = 2 if scope.kind == "interleaving" else 1 + (2 if scope.history_ms else 0)
    values = np.concatenate([np.zeros((0, columns)), *(chunk.values for _, chunk in chunks)])
    stays = np.ones(len(units), dtype=bool)
    for look, chunk in chunks:
        if len(chunk.bots):
            stays &= ~((looks >= look) & np.isin(units, chunk.bots))
    found = summed(units[stays], arms[stays], values[stays], looks[stays], counts[stays])
    units, arms, counts, values, looks = found
    if scope.kind == "interleaving":
        ours, theirs = (values[:, column].astype(np.int64) for column in (0, 1))
        return InterleavedLists(looks, units, ours, theirs, closed, CLICK_NDCG.digest, counts)
    covariates = values[:, 1:] if scope.history_ms else None
    return AbLists(looks, units, arms, values[:, 0], closed, CLICK_NDCG.digest, covariates, counts)


def _quality(chunks: Sequence[Chunk], rules: CleaningRules) -> GateQuality:
    counts = [chunk.quality for chunk in chunks]

    def total(name: str) -> int:
        return sum(getattr(one, name) for one in counts)

    def by_reason(name: str, reasons: type[StrEnum]) -> dict[str, int]:
        return {str(reason): sum(getattr(one, name).get(reason, 0) for one in counts) for reason in reasons}

    dropped_rankings = by_reason("dropped_rankings", DroppedRanking)
    dropped_feedback = by_reason("dropped_feedback", DroppedFeedback)
    found = list(faults(total("kept_rankings"), dropped_rankings, total("kept_feedback"), dropped_feedback, rules))
    clicks, others = total("clicks"), total("other_clicks")
    if others > OTHER_KIND_LIMIT * (clicks + others):
        found.append(
            f"{others} of {clicks + others} clicks are of the other kind (people's and simulated): keep simulated"
            " users out of the model's traffic, or say in the gate's plan that they are who counts"
        )
    return GateQuality(
        rankings=total("rankings"),
        kept_rankings=total("kept_rankings"),
        dropped_rankings=dropped_rankings,
        feedback=total("feedback"),
        kept_feedback=total("kept_feedback"),
        dropped_feedback=dropped_feedback,
        clicks=clicks,
        other_clicks=others,
        without_unit=total("without_unit"),
        bots=len(np.unique(_joined([chunk.bots for chunk in chunks], np.int64))),
        faults=tuple(found),
    )


def _rules(rules: CleaningRules, scope: GateScope) -> CleaningRules:
    arms: tuple[Arm, ...] = ("interleaved",) if scope.kind == "interleaving" else AB_ARMS
    return replace(rules, clicks_within_ms=scope.clicks_within_ms, arms=arms)


def _named(scope: str, rules: CleaningRules, *of: int | str) -> str:
    parts = (_FORM, CLICK_NDCG.digest, scope, repr(rules), *of)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts])
