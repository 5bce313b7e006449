"""Seasons: a window beside the same hour of earlier weeks, from blocks that are kept of the hours that are over.

What comes back each day and each week is no drift. A profile does not know it, so that at night everything has moved;
the same hours of the weeks before do. Shown beside the verdict, which stays the profile's: closed days decide, and
their anchor is weekday-matched itself (`drift.days`).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import xxhash

from drift import statistics
from drift.atomic_file import replace_file
from drift.windows.reference import Aspect, Reference
from drift.windows.window import Window, WindowState
from registry.contracts.errors import UNDECODABLE

log = logging.getLogger(__name__)

WEEK_DAYS, HOURS_A_DAY = 7, 24
SCHEMA = 1
FOLDER = "hours"
LEAST = 0.01  # change of a share below which it is not listed


class SeasonShift(msgspec.Struct, frozen=True):
    """A quantity beside the same hour of earlier weeks.

    weeks: that are known. shift: of the mean from theirs, in the profile's standard deviations, or of a share as it
    is. between: standard deviation between those weeks, in the same unit: a shift within it is as usual; None of one.
    psi, ks: of its bins from theirs together, psi less what chance makes of it; None where it has no bins, or those
    weeks were counted by another profile.
    """

    quantity: str
    aspect: Aspect
    weeks: int
    shift: float
    between: float | None
    psi: float | None = None
    ks: float | None = None


class HourBlock(msgspec.Struct, frozen=True):
    """A file, behind a digest of it. windows: starts of those that are in it, so that none is twice. names: of the
    profile's quantities."""

    windows: tuple[int, ...]
    names: tuple[str, ...]
    state: WindowState
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Hours:
    """Blocks as files, `<folder>/<model>/hours/<arm>/<start>-<version>.msgpack`; 45 kB each of 200 features.

    day_ms, window_ms: as the monitor has them; a block is an hour, a 24th of the day, or a window if that is longer.
    weeks: how many are kept.
    """

    folder: Path
    day_ms: int = 86_400_000
    window_ms: int = 300_000
    weeks: int = 4

    @property
    def block_ms(self) -> int:
        """Length of a block, a whole number of windows."""
        return max(self.day_ms // HOURS_A_DAY // self.window_ms, 1) * self.window_ms

    def add(self, window: Window) -> None:
        """Puts a window that is over into its hour, once; one that could not be counted whole is left out.

        Raises OSError.
        """
        if window.reference is None or not window.lists or window.lists < window.seen:
            return
        start_ms = window.key.start_ms // self.block_ms * self.block_ms
        path = self._home(window) / f"{start_ms:014}-{window.key.version}.msgpack"
        known = _read(path)
        windows: tuple[int, ...] = (window.key.start_ms,)
        key = msgspec.structs.replace(window.key, start_ms=start_ms, end_ms=start_ms + self.block_ms)
        block = Window(key, window.reference).merge(window)
        if known is not None and known.state.digest == window.reference.digest:
            if window.key.start_ms in known.windows:
                return
            windows = (*known.windows, *windows)
            block = Window.restore(known.state, window.reference).merge(block)
        block.sketch = None  # ten times as large as all else
        content = msgspec.msgpack.encode(HourBlock(windows, window.reference.names, block.state()))
        replace_file(path, xxhash.xxh3_64_digest(content) + content)
        self._forget(window)

    def beside(self, window: Window) -> tuple[SeasonShift, ...]:
        """The window's quantities beside the same hour of the weeks before; empty where none is known.

        Of the same version if it answered then, else of the newest that did: features alone are compared then, for
        scores are a version's own. Raises OSError.
        """
        reference = window.reference
        if reference is None or not window.lists:
            return ()
        known = [block for week in range(1, self.weeks + 1) if (block := self._weeks_before(window, week)) is not None]
        return _shifts(window, reference, known) if known else ()

    def _weeks_before(self, window: Window, weeks: int) -> HourBlock | None:
        start_ms = window.key.start_ms // self.block_ms * self.block_ms - weeks * WEEK_DAYS * self.day_ms
        files = sorted(self._home(window).glob(f"{start_ms:014}-*.msgpack"), key=_version)
        own = [file for file in files if _version(file) == window.key.version]
        return _read((own or files)[-1]) if files else None

    def _forget(self, window: Window) -> None:
        """Blocks of the model that no window to come is held beside, and arms that have none left."""
        oldest = f"{window.key.start_ms - self.weeks * WEEK_DAYS * self.day_ms - self.block_ms:014}"
        for home in self._home(window).parent.iterdir():
            files = sorted(home.glob("*.msgpack"))
            for file in files:
                if file.name >= oldest:
                    break
                file.unlink(missing_ok=True)
            else:
                if home != self._home(window):
                    home.rmdir()

    def _home(self, window: Window) -> Path:
        key = window.key
        arm = key.arm if key.arm == "champion" else f"{key.arm}-{key.version}"
        return self.folder / key.model / FOLDER / arm


def _shifts(window: Window, reference: Reference, known: Sequence[HourBlock]) -> tuple[SeasonShift, ...]:
    of_weeks = np.array([_means(block, reference) for block in known])
    told = np.isfinite(of_weeks)
    weeks = told.sum(axis=0)
    mean = np.where(told, of_weeks, 0.0).sum(axis=0) / np.maximum(weeks, 1)
    apart = np.where(told, of_weeks - mean, 0.0)
    current = window.pooled
    of_means = np.array([aspect == "mean" for aspect in reference.aspects])
    sides = (mean, reference.std, current.mean, np.sqrt(current.variance))
    unit = np.where(of_means, statistics.deviation(*sides), 1.0)
    shift = np.where(of_means, statistics.mean_shift(*sides), current.mean - mean)
    between = np.sqrt((apart**2).sum(axis=0) / np.maximum(weeks - 1, 1)) / unit
    bins = _bins_beside(window, reference, known)
    return tuple(
        SeasonShift(
            reference.names[place],
            reference.aspects[place],
            int(weeks[place]),
            float(shift[place]),
            float(between[place]) if weeks[place] > 1 else None,
            *bins.get(place, (None, None)),
        )
        for place in np.flatnonzero((weeks > 0) & (current.weight > 0) & (of_means | (np.abs(shift) >= LEAST))).tolist()
    )


def _means(block: HourBlock, reference: Reference) -> statistics.FloatArray:
    """(quantities,) of this reference; nan where the block has none, or it is of another version's scores."""
    weight, mean, *_ = np.frombuffer(block.state.moments).reshape(6, -1)
    own = block.state.digest == reference.digest
    places = {key: place for place, key in enumerate(_keys(block.names))}
    found = np.full(len(reference.names), np.nan)
    for place, (name, times) in enumerate(_keys(reference.names)):
        there = places.get((name, times))
        if there is not None and weight[there] > 0 and (own or not name.startswith("ranking:")):
            found[place] = mean[there]
    return found


def _keys(names: Sequence[str]) -> list[tuple[str, int]]:
    """A feature's mean, missing and zero share have one name: the how many-th it is tells them apart."""
    seen: dict[str, int] = {}
    keys = []
    for name in names:
        keys.append((name, seen.get(name, 0)))
        seen[name] = seen.get(name, 0) + 1
    return keys


def _bins_beside(
    window: Window, reference: Reference, known: Sequence[HourBlock]
) -> dict[int, tuple[float | None, float | None]]:
    """psi beyond chance and ks by place, of blocks that the same profile counted."""
    blocks = [Window.restore(block.state, reference) for block in known if block.state.digest == reference.digest]
    if not blocks:
        return {}
    then, now = np.sum([block.bins for block in blocks], axis=0), window.bins
    design = window.design_effect()[: len(now)]
    psi = statistics.psi(then, now) - statistics.psi_by_chance(then, now, design)
    ks = statistics.ks(then, now)
    return {place: (float(psi[place]), float(ks[place])) for place in np.flatnonzero(np.isfinite(psi)).tolist()}


def _version(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _read(path: Path) -> HourBlock | None:
    """None if there is no such file, or it is damaged: then that hour is not known."""
    try:
        raw = path.read_bytes()
        if raw[:8] != xxhash.xxh3_64_digest(raw[8:]):  # numbers that changed would look like a shift
            log.warning("an hour is not known any more: %s is damaged", path)
            return None
        found = msgspec.msgpack.decode(raw[8:], type=HourBlock)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        log.warning("an hour is not known any more: %s is no block of windows: %s", path, error)
        return None
    return found if found.schema == SCHEMA and len(found.state.moments) == 48 * len(found.names) else None
