"""The drift board: where the drift monitor shows what the newest closed days came to.

A copy of what the monitor's own state holds, published when a day closes and again when the monitor
starts. It never goes back: an earlier day replaces no later one. Beside the records it keeps the newest
declared change of every model's feature pipeline, which people write and the monitor reads, and the newest
calibration, which comes with a collected window.
"""

import logging
import threading
from collections.abc import Iterable
from typing import Protocol, cast

import redis

from registry.contracts.drift import CalibrationRecord, Family, Rebaseline, ShiftRecord
from registry.contracts.errors import ContractError
from registry.contracts.traffic import Arm
from registry.redis_errors import redis_errors

log = logging.getLogger(__name__)

RECORDS_PREFIX = "sluice:drift:"
REBASELINED_KEY = "sluice:drift-rebaselined"
CALIBRATED_KEY = "sluice:drift-calibrated"
KEPT_MS = 60 * 86_400_000
"""How long before a model's newest record another arm's may end and still be shown."""

_Place = tuple[Arm, int, Family, str]


class DriftBoard(Protocol):
    """Records by model, arm, version, family and segment; of the champion's arm, the newest version's alone."""

    def publish(self, record: ShiftRecord) -> None:
        """Shows it, unless a later day of the same place is there. Raises StoreUnavailable."""
        ...

    def latest(self, model: str) -> tuple[ShiftRecord, ...]:
        """All that is shown of the model, newest first; what is no record is left out and logged.
        Raises StoreUnavailable."""
        ...

    def withdraw(self, record: ShiftRecord) -> None:
        """Shows no record of its place any more: nobody watches that. Raises StoreUnavailable."""
        ...

    def declare(self, change: Rebaseline) -> None:
        """Keeps the change as the model's newest. Raises StoreUnavailable."""
        ...

    def declared(self, model: str) -> Rebaseline | None:
        """The model's newest declared change. Raises StoreUnavailable."""
        ...

    def calibrated(self, record: CalibrationRecord) -> None:
        """Shows it as its model's, unless that of a later window is there. Raises StoreUnavailable."""
        ...

    def calibrations(self) -> dict[str, CalibrationRecord]:
        """The newest of each model. Raises StoreUnavailable."""
        ...


def latest_drift(board: DriftBoard, model: str, version: int | None = None) -> tuple[ShiftRecord, ...]:
    """The newest record of each family: of the champion's arm, or of the version's, in whichever arm it is, as a whole:
    what a segment is like decides nothing.

    Empty if no day was closed yet. Raises StoreUnavailable.
    """
    found: dict[Family, ShiftRecord] = {}
    for record in board.latest(model):
        asked_for = record.version == version if version is not None else record.arm == "champion"
        if asked_for and not record.segment:
            found.setdefault(record.family, record)
    return tuple(found.values())


def declare(board: DriftBoard, change: Rebaseline) -> None:
    """Keeps the change, unless a newer one is there: one that is told again takes nobody else's place. Raises
    StoreUnavailable."""
    before = board.declared(change.model)
    if before is None or before.from_ms <= change.from_ms:
        board.declare(change)


class MemoryDriftBoard:
    """A board inside one process; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: dict[str, dict[_Place, ShiftRecord]] = {}
        self._declared: dict[str, Rebaseline] = {}
        self._calibrations: dict[str, CalibrationRecord] = {}

    def publish(self, record: ShiftRecord) -> None:
        """See `DriftBoard`."""
        with self._lock:
            shown = self._shown.setdefault(record.model, {})
            before = shown.get(_place(record))
            if before is None or before.until_ms <= record.until_ms:
                shown[_place(record)] = record
                for old in _outdated(shown.values()):
                    del shown[_place(old)]

    def latest(self, model: str) -> tuple[ShiftRecord, ...]:
        """See `DriftBoard`."""
        with self._lock:
            return _newest_first(list(self._shown.get(model, {}).values()))

    def withdraw(self, record: ShiftRecord) -> None:
        """See `DriftBoard`."""
        with self._lock:
            self._shown.get(record.model, {}).pop(_place(record), None)

    def declare(self, change: Rebaseline) -> None:
        """See `DriftBoard`."""
        with self._lock:
            self._declared[change.model] = change

    def declared(self, model: str) -> Rebaseline | None:
        """See `DriftBoard`."""
        with self._lock:
            return self._declared.get(model)

    def calibrated(self, record: CalibrationRecord) -> None:
        """See `DriftBoard`."""
        with self._lock:
            before = self._calibrations.get(record.model)
            if before is None or before.until_ms <= record.until_ms:
                self._calibrations[record.model] = record

    def calibrations(self) -> dict[str, CalibrationRecord]:
        """See `DriftBoard`."""
        with self._lock:
            return dict(self._calibrations)


class RedisDriftBoard:
    """On Redis: a hash a model, record by place, and a hash of declared changes. client: returns bytes
    (`decode_responses` off). The monitor alone publishes."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def publish(self, record: ShiftRecord) -> None:
        """See `DriftBoard`."""
        shown = self.latest(record.model)
        if any(_place(one) == _place(record) and one.until_ms > record.until_ms for one in shown):
            return
        kept = {_place(one): one for one in shown} | {_place(record): record}
        old = [_field(one) for one in _outdated(kept.values())]
        with redis_errors(f"publish the drift of {record.model}"), self._client.pipeline(transaction=True) as pipeline:
            pipeline.hset(_key(record.model), _field(record), record.encode())
            if old:
                pipeline.hdel(_key(record.model), *old)
            pipeline.execute()

    def latest(self, model: str) -> tuple[ShiftRecord, ...]:
        """See `DriftBoard`."""
        with redis_errors(f"read the drift of {model}"):
            raws = cast(dict[bytes, bytes], self._client.hgetall(_key(model)))
        records = []
        for field, raw in raws.items():
            try:
                records.append(ShiftRecord.decode(raw))
            except ContractError as error:
                log.warning("left out what the drift board shows of %s at %r: %s", model, field, error)
        return _newest_first(records)

    def withdraw(self, record: ShiftRecord) -> None:
        """See `DriftBoard`."""
        with redis_errors(f"withdraw the drift of {record.model}"):
            self._client.hdel(_key(record.model), _field(record))

    def declare(self, change: Rebaseline) -> None:
        """See `DriftBoard`."""
        with redis_errors(f"declare a change of {change.model}"):
            self._client.hset(REBASELINED_KEY, change.model, change.encode())

    def declared(self, model: str) -> Rebaseline | None:
        """See `DriftBoard`."""
        with redis_errors(f"read what was declared of {model}"):
            raw = cast(bytes | None, self._client.hget(REBASELINED_KEY, model))
        if raw is None:
            return None
        try:
            return Rebaseline.decode(raw)
        except ContractError as error:
            log.warning("left out what was declared of %s: %s", model, error)
            return None

    def calibrated(self, record: CalibrationRecord) -> None:
        """See `DriftBoard`. Collections of a model follow one another: nobody publishes in between."""
        before = self.calibrations().get(record.model)
        if before is not None and before.until_ms > record.until_ms:
            return
        with redis_errors(f"publish the calibration of {record.model}"):
            self._client.hset(CALIBRATED_KEY, record.model, record.encode())

    def calibrations(self) -> dict[str, CalibrationRecord]:
        """See `DriftBoard`."""
        with redis_errors("read calibrations"):
            raws = cast(dict[bytes, bytes], self._client.hgetall(CALIBRATED_KEY))
        found = {}
        for field, raw in raws.items():
            try:
                found[field.decode()] = CalibrationRecord.decode(raw)
            except ContractError as error:
                log.warning("left out the calibration of %r: %s", field, error)
        return found


def _place(record: ShiftRecord) -> _Place:
    return record.arm, 0 if record.arm == "champion" else record.version, record.family, record.segment


def _key(model: str) -> str:
    return f"{RECORDS_PREFIX}{model}"


def _field(record: ShiftRecord) -> str:
    return "/".join(map(str, _place(record))).removesuffix("/")  # of the whole, without a segment


def _newest_first(records: list[ShiftRecord]) -> tuple[ShiftRecord, ...]:
    return tuple(sorted(records, key=lambda record: (-record.until_ms, _field(record))))


def _outdated(records: Iterable[ShiftRecord]) -> list[ShiftRecord]:
    shown = list(records)
    newest_ms = max(record.until_ms for record in shown)
    return [record for record in shown if record.until_ms < newest_ms - KEPT_MS]
