"""The audit log, on each kind of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from registry.audit import SqlAuditLog
from registry.audit_record import AuditRecord
from registry.database import open_database
from registry.errors import StoreUnavailable
from tests.builders import NOW_MS


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlAuditLog]:
    url = f"sqlite:///{tmp_path / 'control.db'}"
    engine = open_database(request.getfixturevalue("postgres_url") if request.param == "postgres" else url)
    yield SqlAuditLog(engine)
    engine.dispose()


def a_record(number: int = 0, **changes: object) -> AuditRecord:
    record = AuditRecord(f"{number:032x}", "answered", NOW_MS + number, "promote", "POST", "k1", "ann (key ci)")
    return replace(record, **changes)


def test_rows_come_back_as_they_were_written_the_newest_first(log: SqlAuditLog) -> None:
    full = a_record(
        3,
        source="10.0.0.7",
        model="é",
        target="search-7",
        idempotency_key="job-1",
        why="quotes ' and \x00",
        status=200,
        plan_revision=9,
        error="none",
    )
    for record in (a_record(1), a_record(2, phase="asked"), full):
        log.write(record)

    assert [row.record for row in log.newest(10)] == [full, a_record(2, phase="asked"), a_record(1)]


def test_they_are_found_by_model_principal_and_request_a_page_at_a_time(log: SqlAuditLog) -> None:
    for number in range(6):
        log.write(a_record(number, model="one" if number % 2 else "two", principal="k1" if number < 3 else "k2"))

    assert [row.record.at_ms - NOW_MS for row in log.newest(10, model="one")] == [5, 3, 1]
    assert [row.record.at_ms - NOW_MS for row in log.newest(10, principal="k1", model="two")] == [2, 0]
    assert [row.record.at_ms - NOW_MS for row in log.newest(10, request_id=f"{4:032x}")] == [4]
    first = log.newest(4)
    assert [row.record.at_ms - NOW_MS for row in log.newest(4, before_seq=first[-1].seq)] == [1, 0]


def test_old_rows_are_forgotten(log: SqlAuditLog) -> None:
    for number in range(4):
        log.write(a_record(number))

    assert log.forget(NOW_MS + 2) == 2
    assert [row.record.at_ms - NOW_MS for row in log.newest(10)] == [3, 2]


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    engine = open_database(f"sqlite:///{tmp_path / 'control.db'}")
    engine.dispose()
    (tmp_path / "control.db").unlink()
    with engine.begin() as connection:  # another, empty database in its place
        connection.exec_driver_sql("SELECT 1")

    with pytest.raises(StoreUnavailable, match="write the audit log"):
        SqlAuditLog(engine).write(a_record())
    engine.dispose()
