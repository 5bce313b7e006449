"""The archive as an online gate sees it: the lists of a step by arm, look and unit, each with what was clicked.

- Time since the step began is cut into looks, and those into chunks of an hour at most. A chunk whose clicks have
  come is cleaned once, summed by unit and kept on disk, under the digest of what was asked for and of the archive's
  files that it was made of: nothing is read again each minute, a restart makes the same bytes, and what comes into
  the archive late makes another chunk.
- Both arms are cleaned by the same rules (`cleaning`). Who was found a bot counts no more from that look on; what a
  closed look was judged on does not change afterwards.
- Clicks of people and of simulated users are never mixed: a gate counts the ones or the others, and says how many
  of the other kind there were.
- The means that CUPED compares a list with, of its unit and of its query, are of the champion's lists from before
  the rollout began: nothing after can be in them.
- Units and queries are numbers here, 64 bits of their ids: with ten million units, two share one with a chance
  of three in a million.
"""

import hashlib
import io
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.archive.files import Archive
from pipelines.durable import replace_file
from pipelines.feedback.cleaning import (
    FEEDBACK_COLUMNS,
    RANKING_COLUMNS,
    CleaningRules,
    DroppedFeedback,
    DroppedRanking,
    Impressions,
    clean,
    faults,
)
from pipelines.feedback.click_ndcg import feedback_of_window
from pipelines.gates.online import AbLists, InterleavedLists
from pipelines.ndcg import mean_ndcg
from registry.contracts.ids import hash64
from registry.contracts.manifest import CLICK_NDCG
from registry.contracts.traffic import WEIGHT_STEPS, Arm, Layer

log = logging.getLogger(__name__)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

CHUNK_MS = 3_600_000
OTHER_KIND_LIMIT = 0.01
"""Share of clicks of the kind that does not count, over which the two kinds of users are taken to be mixed."""
COLUMNS = (*RANKING_COLUMNS, "plan_revision", "experiment", "teams")
AB_ARMS: tuple[Arm, ...] = ("champion", "challenger")
_FORM = 1  # of chunks on disk: another one where lists are cleaned or summed in another way


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
        self, scope: GateScope, rules: CleaningRules, means: "_Means | None", begin_ms: int, end_ms: int, as_of_ms: int
    ) -> "_Chunk":
        clicks_until_ms = end_ms + scope.clicks_within_ms
        if as_of_ms < clicks_until_ms:
            return _open_chunk(self.archive, scope, rules, means, begin_ms, end_ms, as_of_ms)
        made_of = self.archive.fingerprint(scope.model, begin_ms - scope.clicks_within_ms, clicks_until_ms)
        before = means.made_of if means else ""
        name = _named(scope.digest, rules, begin_ms, end_ms, made_of, before)
        path = self.folder / scope.digest / f"{begin_ms}-{name}.npz"
        if (kept := _Chunk.load(path)) is not None:
            return kept
        made = _open_chunk(self.archive, scope, rules, means, begin_ms, end_ms, clicks_until_ms)
        replace_file(path, made.encode())
        for old in path.parent.glob(f"{begin_ms}-*.npz"):
            if old != path:
                old.unlink(missing_ok=True)
        return made

    def _means(self, scope: GateScope) -> "_Means | None":
        """Of the champion's lists before the rollout; None without history or covariates."""
        if not scope.history_ms or scope.kind != "ab":
            return None
        since_ms = scope.before_ms - scope.history_ms
        made_of = self.archive.fingerprint(scope.model, since_ms - scope.clicks_within_ms, scope.before_ms + 1)
        name = _named(scope.digest, self.rules, since_ms, scope.before_ms, made_of, "")
        path = self.folder / scope.digest / f"means-{name}.npz"
        if (kept := _Means.load(path, made_of)) is not None:
            return kept
        made = _Means.of(_history(self.archive, scope, _rules(self.rules, scope)), made_of)
        replace_file(path, made.encode())
        return made


@dataclass(frozen=True, slots=True)
class CleanedLists:
    """Cleaned lists, with what a gate needs of each beside the impressions.

    Of lists, shape (lists,): unit_of, query_of: places in unit_names and query_names, ids; arms; experiments;
    answered_ms; plan_revisions; values: click-NDCG. teams: (rows,), 1 where a draft's item is the challenger's.
    other_clicks: of the kind that does not count.
    """

    shown: Impressions
    unit_of: Ints
    unit_names: tuple[str, ...]
    query_of: Ints
    query_names: tuple[str, ...]
    arms: NDArray[np.str_]
    experiments: NDArray[np.str_]
    answered_ms: Ints
    plan_revisions: Ints
    values: Floats
    teams: NDArray[np.uint8]
    other_clicks: int

    @property
    def units(self) -> Ints:
        """As numbers, 0 for who is nobody. Shape (lists,)."""
        return _numbers(self.unit_names)[self.unit_of]

    @property
    def queries(self) -> Ints:
        """As numbers, 0 for those without an id. Shape (lists,)."""
        return _numbers(self.query_names)[self.query_of]

    def buckets(self, salt: str) -> Ints:
        """Of each list's unit in a layer with that salt, see `traffic.Layer`. Shape (lists,)."""
        layer = Layer("", salt, ())
        return np.array([layer.bucket_of(unit) for unit in self.unit_names], dtype=np.int64)[self.unit_of]


def cleaned_lists(
    archive: Archive, model: str, since_ms: int, until_ms: int, rules: CleaningRules, simulated: bool, as_of_ms: int
) -> CleanedLists:
    """What was answered in since_ms <= t < until_ms and had its clicks by as_of_ms, cleaned.

    simulated: whether simulated clicks count, or people's.
    """
    until_ms = min(until_ms, as_of_ms - rules.clicks_within_ms + 1)
    # feedback first: what it is about was written before it, so that none is without its ranking while both are written
    received = archive.feedback(model, since_ms, until_ms + rules.clicks_within_ms, FEEDBACK_COLUMNS, repeats_ms=0)
    rankings = archive.rankings(model, since_ms, until_ms, COLUMNS)
    earlier = archive.rankings(model, since_ms - rules.clicks_within_ms, since_ms, ["ranking_id"])
    heard = feedback_of_window(received, rankings, earlier, until_ms)
    ours = pc.equal(_whole(heard["simulated"]).fill_null(False), simulated)
    others = heard.filter(pc.invert(ours))
    shown = clean(rankings, heard.filter(ours), rules, as_of_ms)
    ids = pa.array(shown.ranking_ids.tolist(), pa.string())
    rows = rankings.take(pc.index_in(ids, _whole(rankings["ranking_id"])))
    units, queries = (pc.dictionary_encode(_whole(rows[name]).fill_null("")) for name in ("unit", "query_id"))
    quality = mean_ndcg(shown.clicks, -np.arange(len(shown.clicks), dtype=np.float64), shown.offsets, CLICK_NDCG)
    return CleanedLists(
        shown=shown,
        unit_of=_ints(units.indices),
        unit_names=tuple(units.dictionary.to_pylist()),
        query_of=_ints(queries.indices),
        query_names=tuple(queries.dictionary.to_pylist()),
        arms=_texts(rows["arm"]),
        experiments=_texts(rows["experiment"]),
        answered_ms=_ints(rows["answered_ms"]),
        plan_revisions=_ints(rows["plan_revision"]),
        values=quality.per_list,
        teams=_teams(rows, shown),
        other_clicks=int(pc.sum(pc.equal(others["event"], "click")).as_py() or 0),
    )


class _Counts(msgspec.Struct, frozen=True):
    """A chunk's quality, to be added up."""

    rankings: int
    kept_rankings: int
    dropped_rankings: dict[str, int]
    feedback: int
    kept_feedback: int
    dropped_feedback: dict[str, int]
    clicks: int
    other_clicks: int
    without_unit: int


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Sums by unit and arm, each of shape (rows,). values: of A/B, (rows, 1 + covariates): click-NDCG, then the means
    it is compared with; of drafts, (rows, 2): the challenger's credit and the champion's. bots: units."""

    units: Ints
    in_challenger: NDArray[np.bool_]
    counts: Ints
    values: Floats
    bots: Ints
    quality: _Counts

    def encode(self) -> bytes:
        about = np.frombuffer(msgspec.json.encode(self.quality, order="deterministic"), dtype=np.uint8)
        return _npz(
            units=self.units,
            in_challenger=self.in_challenger,
            counts=self.counts,
            values=self.values,
            bots=self.bots,
            quality=about,
        )

    @staticmethod
    def load(path: Path) -> "_Chunk | None":
        found = _load(path)
        if found is None:
            return None
        quality = msgspec.json.decode(found["quality"].tobytes(), type=_Counts)
        return _Chunk(found["units"], found["in_challenger"], found["counts"], found["values"], found["bots"], quality)


@dataclass(frozen=True, slots=True)
class _Means:
    """Sorted units and queries, and the champion's mean of each; mean: of all lists, for those not known."""

    units: Ints
    unit_means: Floats
    queries: Ints
    query_means: Floats
    mean: float
    made_of: str

    @staticmethod
    def of(lists: tuple[Ints, Ints, Floats], made_of: str) -> "_Means":
        units, queries, values = lists
        found: list[tuple[Ints, Floats]] = []
        for keys in (units, queries):
            known = keys != 0
            names, place = np.unique(keys[known], return_inverse=True)
            sums = np.bincount(place, weights=values[known], minlength=len(names))
            found.append((names, sums / np.maximum(1, np.bincount(place, minlength=len(names)))))
        mean = float(values.mean()) if len(values) else 0.0
        return _Means(found[0][0], found[0][1], found[1][0], found[1][1], mean, made_of)

    def covariates(self, units: Ints, queries: Ints) -> Floats:
        """Shape (lists, 2)."""
        sides = ((self.units, self.unit_means, units), (self.queries, self.query_means, queries))
        return np.stack([_looked_up(*side, self.mean) for side in sides], axis=1)

    def encode(self) -> bytes:
        return _npz(
            units=self.units,
            unit_means=self.unit_means,
            queries=self.queries,
            query_means=self.query_means,
            mean=np.array([self.mean]),
        )

    @staticmethod
    def load(path: Path, made_of: str) -> "_Means | None":
        found = _load(path)
        if found is None:
            return None
        units, queries = (found["units"], found["unit_means"]), (found["queries"], found["query_means"])
        return _Means(*units, *queries, float(found["mean"][0]), made_of)


def _history(archive: Archive, scope: GateScope, rules: CleaningRules) -> tuple[Ints, Ints, Floats]:
    """Units, queries and values of the champion's lists before the rollout, chunk after chunk."""
    parts: list[tuple[Ints, Ints, Floats]] = []
    begin_ms = scope.before_ms - scope.history_ms
    while begin_ms < scope.before_ms:
        end_ms = min(begin_ms + CHUNK_MS, scope.before_ms)
        # as known when the rollout began: a later click could come from what it did
        lists = cleaned_lists(archive, scope.model, begin_ms, end_ms, rules, scope.simulated, scope.before_ms)
        mine = lists.arms == "champion"
        parts.append((lists.units[mine], lists.queries[mine], lists.values[mine]))
        begin_ms = end_ms
    units, queries, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return units, queries, values


def _open_chunk(
    archive: Archive,
    scope: GateScope,
    rules: CleaningRules,
    means: _Means | None,
    begin_ms: int,
    end_ms: int,
    as_of_ms: int,
) -> _Chunk:
    """The chunk as known at as_of_ms; nothing in it changes once its clicks have come."""
    lists = cleaned_lists(archive, scope.model, begin_ms, end_ms, rules, scope.simulated, as_of_ms)
    mine = _in_scope(scope, lists)
    ours = mine & (lists.units != 0)
    in_challenger = (lists.arms == "challenger")[ours]
    if scope.kind == "interleaving":
        columns = _credits(scope, lists)[ours]
    else:
        beside = np.zeros((int(ours.sum()), 0))
        if means is not None:
            beside = means.covariates(lists.units[ours], lists.queries[ours])
        columns = np.concatenate([lists.values[ours, None], beside], axis=1)
    units, arms, counts, sums, _ = _summed(lists.units[ours], in_challenger, columns)
    report = lists.shown.report
    quality = _Counts(
        rankings=report.rankings,
        kept_rankings=report.kept_rankings,
        dropped_rankings=report.dropped_rankings,
        feedback=report.feedback,
        kept_feedback=report.kept_feedback,
        dropped_feedback=report.dropped_feedback,
        clicks=report.clicks,
        other_clicks=lists.other_clicks,
        without_unit=int((mine & (lists.units == 0)).sum()),
    )
    return _Chunk(units, arms, counts, sums, np.unique(_numbers(lists.shown.bots)), quality)


def _in_scope(scope: GateScope, lists: CleanedLists) -> NDArray[np.bool_]:
    """Which lists are of the step's arms."""
    by_plan = lists.plan_revisions >= scope.plan_revision
    of_experiment = lists.experiments == scope.experiment
    if scope.kind == "interleaving":
        return np.asarray(by_plan & of_experiment & (lists.arms == "interleaved"))
    control = lists.arms == "champion"
    if scope.control:
        control = control & _is_control(scope, lists)
    return np.asarray(by_plan & ((of_experiment & (lists.arms == "challenger")) | control))


def _is_control(scope: GateScope, lists: CleanedLists) -> NDArray[np.bool_]:
    allowed = np.zeros(WEIGHT_STEPS, dtype=bool)
    for first, end in scope.control:
        allowed[first:end] = True
    return np.asarray(allowed[lists.buckets(scope.salt)])


def _credits(scope: GateScope, lists: CleanedLists) -> Floats:
    """The challenger's and the champion's clicks of each list, or who won it. Shape (lists, 2)."""
    shown = lists.shown
    clicks = shown.clicks.astype(np.float64)
    ours = np.bincount(shown.list_of, weights=clicks * lists.teams, minlength=len(shown))
    theirs = np.bincount(shown.list_of, weights=clicks * (1 - lists.teams), minlength=len(shown))
    if scope.scoring == "wins":
        ours, theirs = (ours > theirs).astype(np.float64), (theirs > ours).astype(np.float64)
    return np.stack([ours, theirs], axis=1)


def _teams(rows: pa.Table, shown: Impressions) -> NDArray[np.uint8]:
    """Of every shown item; 0 where a list has no teams. Shape (rows,)."""
    lists = _whole(rows["teams"])
    sizes = _ints(pc.list_value_length(lists).fill_null(0))
    found = np.zeros(len(shown.clicks), dtype=np.uint8)
    drafted = sizes == np.diff(shown.offsets)  # a list that is no draft has none
    values = lists.flatten().to_numpy(zero_copy_only=False)
    found[np.repeat(drafted, np.diff(shown.offsets))] = values[np.repeat(drafted, sizes)]
    return found


def _summed(
    units: Ints,
    in_challenger: NDArray[np.bool_],
    columns: Floats,
    looks: Ints | None = None,
    counts: Ints | None = None,
) -> tuple[Ints, NDArray[np.bool_], Ints, Floats, Ints]:
    """Units, arms, lists, sums and looks, a row for each unit, arm and look, in that order of look and unit."""
    at = np.ones(len(units), dtype=np.int64) if looks is None else looks
    each = np.ones(len(units), dtype=np.int64) if counts is None else counts
    order = np.lexsort((in_challenger, units, at))
    units, in_challenger, at = units[order], in_challenger[order], at[order]
    fresh = np.ones(len(units), dtype=bool)
    fresh[1:] = (units[1:] != units[:-1]) | (in_challenger[1:] != in_challenger[:-1]) | (at[1:] != at[:-1])
    first = np.flatnonzero(fresh)
    if not len(first):
        return units, in_challenger, each, columns, at
    sums = np.add.reduceat(columns[order], first, axis=0)
    return units[first], in_challenger[first], np.add.reduceat(each[order], first), sums, at[first]


def _together(scope: GateScope, chunks: Sequence[tuple[int, _Chunk]], closed: int) -> AbLists | InterleavedLists:
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
    found = _summed(units[stays], arms[stays], values[stays], looks[stays], counts[stays])
    units, arms, counts, values, looks = found
    if scope.kind == "interleaving":
        ours, theirs = (values[:, column].astype(np.int64) for column in (0, 1))
        return InterleavedLists(looks, units, ours, theirs, closed, CLICK_NDCG.digest, counts)
    covariates = values[:, 1:] if scope.history_ms else None
    return AbLists(looks, units, arms, values[:, 0], closed, CLICK_NDCG.digest, covariates, counts)


def _quality(chunks: Sequence[_Chunk], rules: CleaningRules) -> GateQuality:
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


def _looked_up(keys: Ints, means: Floats, wanted: Ints, otherwise: float) -> Floats:
    if not len(keys):
        return np.full(len(wanted), otherwise)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, means[place], otherwise)


def _rules(rules: CleaningRules, scope: GateScope) -> CleaningRules:
    arms: tuple[Arm, ...] = ("interleaved",) if scope.kind == "interleaving" else AB_ARMS
    return replace(rules, clicks_within_ms=scope.clicks_within_ms, arms=arms)


def _named(scope: str, rules: CleaningRules, *of: int | str) -> str:
    parts = (_FORM, CLICK_NDCG.digest, scope, repr(rules), *of)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _numbers(names: Sequence[str]) -> Ints:
    return np.array([hash64(name) if name else 0 for name in names], dtype=np.uint64).view(np.int64)


def _joined(parts: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=kind), *parts])


def _whole(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks()


def _ints(column: pa.ChunkedArray | pa.Array) -> Ints:
    return np.asarray(column.to_numpy(), dtype=np.int64)


def _texts(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.asarray(_whole(column).fill_null("").to_pylist(), dtype=np.str_)


def _npz(**arrays: NDArray[Any]) -> bytes:
    """Equal arrays give equal bytes."""
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _load(path: Path) -> dict[str, NDArray[Any]] | None:
    """None if there is none, or it is damaged: then it is made again."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        log.warning("%s is damaged and made again: %s", path, error)
        return None
