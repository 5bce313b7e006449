"""Keys, tokens and the audit log through the control API: what is rotated, limited, written down, and refused."""

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.control.key_publisher import INSIST_AFTER, KeyPublisher
from deploy.control.local_key import local_key
from deploy.control.trail import STRANGERS_AT_ONCE, STRANGERS_PER_S, Strangers
from registry.api_keys import MemoryKeyRing, hash_of, key_text, make_key
from registry.audit import SqlAuditLog
from registry.audit_record import AuditRecord
from registry.key_sheet import MemoryKeyBoard
from serving.identity.key_sets import KeySet
from serving.identity.tokens import TokenVerifier
from tests.builders import NOW_MS
from tests.deploy.control_desk import MODEL, ControlBench, a_control_bench
from tests.serving.issuers import Issuer, an_issuer

PROMOTE = f"/v1/models/{MODEL}/promote"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ControlBench]:
    with a_control_bench(tmp_path) as bench:
        yield bench


def made(bench: ControlBench, **body: Any) -> tuple[str, str]:
    """A new key's id and text."""
    answer = bench.request("POST", "/v1/keys", json={"name": "ci", "role": "operator"} | body)
    assert answer.status_code == 201, answer.text
    return answer.json()["about"]["id"], answer.json()["key"]


def status(bench: ControlBench, key: str) -> int:
    """Of a look at the history that every viewer may have."""
    return bench.request("GET", f"/v1/models/{MODEL}/rollouts", key).status_code


def log(bench: ControlBench) -> list[AuditRecord]:
    """The oldest first."""
    return [row.record for row in SqlAuditLog(bench.control.engine).newest(1000)][::-1]


def on_the_sheet(bench: ControlBench) -> dict[str, int | None]:
    """When each text that gateways know ends, by its hash."""
    posted = bench.keys.read()
    assert posted is not None
    return {one.hash: one.principal.until_ms for one in posted.sheet.keys}


def test_a_rotated_key_has_two_texts_for_a_while_and_gateways_know_both(bench: ControlBench) -> None:
    key_id, old = made(bench)
    answer = bench.request("POST", f"/v1/keys/{key_id}/rotate", json={"grace_s": 3600})
    assert answer.status_code == 200, answer.text
    new, about = answer.json()["key"], answer.json()["about"]

    assert (about["id"], about["old_prefix"], about["prefix"]) == (key_id, old[:15], new[:15])
    assert abs(about["old_until_ms"] - time.time() * 1000 - 3_600_000) < 60_000
    assert (status(bench, old), status(bench, new)) == (200, 200)
    sheet = on_the_sheet(bench)
    assert (sheet[hash_of(old)], sheet[hash_of(new)]) == (about["old_until_ms"], None)

    bench.request("POST", f"/v1/keys/{key_id}/rotate", json={"grace_s": 0})
    assert (status(bench, old), status(bench, new)) == (401, 401)
    assert {hash_of(old), hash_of(new)}.isdisjoint(on_the_sheet(bench))


def test_a_key_expires_by_itself(bench: ControlBench) -> None:
    _, text = made(bench, expires_in_s=1)
    until_s = time.monotonic() + 30
    while status(bench, text) != 401:
        assert time.monotonic() < until_s, "it is still good"
        time.sleep(0.05)

    assert "expired at" in bench.request("GET", "/v1/keys", text).json()["error"]


def test_a_revoked_key_is_off_the_sheet_when_it_is_answered(bench: ControlBench) -> None:
    key_id, text = made(bench)
    assert hash_of(text) in on_the_sheet(bench)
    assert bench.request("POST", f"/v1/keys/{key_id}/revoke").status_code == 200

    assert hash_of(text) not in on_the_sheet(bench)


def test_a_revocation_that_gateways_cannot_be_told_is_said_to_be_half_done(bench: ControlBench) -> None:
    key_id, text = made(bench)
    bench.away.add("board")
    answer = bench.request("POST", f"/v1/keys/{key_id}/revoke")

    assert (answer.status_code, "gateways do not follow yet" in answer.text) == (503, True)
    assert status(bench, text) == 401
    another, _ = made(bench)  # a key is shown, now or never
    bench.away.clear()
    assert bench.request("POST", f"/v1/keys/{key_id}/revoke").status_code == 200
    assert hash_of(text) not in on_the_sheet(bench)
    assert another


def test_a_quota_is_set_with_the_key_and_changed_later(bench: ControlBench) -> None:
    key_id, _ = made(bench, role="caller", requests_per_s=5, line="ads")
    limits = {"requests_per_s": 50, "candidates_per_s": 5000.5}
    changed = bench.request("POST", f"/v1/keys/{key_id}/limit", json=limits).json()

    assert (changed["requests_per_s"], changed["candidates_per_s"], changed["line"]) == (50, 5000.5, "ads")
    posted = bench.keys.read()
    assert posted is not None
    [known] = [one.principal for one in posted.sheet.keys if one.principal.id == key_id]
    assert (known.requests_per_s, known.candidates_per_s, known.line) == (50, 5000.5, "ads")


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("", {"name": "x", "role": "root"}, "role"),
        ("", {"name": "x", "role": "caller", "requests_per_s": -1}, "requests_per_s"),
        ("", {"name": "x", "role": "caller", "expires_in_s": 0}, "expires_in_s"),
        ("", {"name": "x", "role": "caller", "line": "two words"}, "line"),
        ("/{id}/rotate", {"grace_s": 10**9}, "grace_s"),
        ("/{id}/limit", {"requests_per_s": 1}, "candidates_per_s"),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_by_field(
    bench: ControlBench, path: str, body: dict[str, Any], words: str
) -> None:
    key_id, _ = made(bench)
    answer = bench.request("POST", f"/v1/keys{path.replace('{id}', key_id)}", json=body)

    assert (answer.status_code, words in answer.text) == (400, True), answer.text


def test_a_revoked_key_is_not_rotated_and_an_unknown_one_not_found(bench: ControlBench) -> None:
    key_id, _ = made(bench)
    bench.request("POST", f"/v1/keys/{key_id}/revoke")

    assert bench.request("POST", f"/v1/keys/{key_id}/rotate", json={}).status_code == 409
    assert bench.request("POST", "/v1/keys/nobody/rotate", json={}).status_code == 404
    assert (
        bench.request("POST", "/v1/keys/nobody/limit", json={"requests_per_s": 1, "candidates_per_s": 1}).status_code
        == 404
    )


def test_a_rotation_sent_twice_makes_one_text(bench: ControlBench) -> None:
    key_id, _ = made(bench)
    headers = {"idempotency-key": "job-1"}
    first = bench.request("POST", f"/v1/keys/{key_id}/rotate", json={}, headers=headers)
    again = bench.request("POST", f"/v1/keys/{key_id}/rotate", json={}, headers=headers)

    assert (first.status_code, again.status_code, again.headers["idempotency-replayed"]) == (200, 409, "true")
    assert status(bench, first.json()["key"]) == 200


def test_the_list_says_when_a_key_was_last_used(bench: ControlBench) -> None:
    key_id, _ = made(bench)
    bench.keys.note_used({key_id: NOW_MS})
    found = {one["id"]: one["used_ms"] for one in bench.request("GET", "/v1/keys").json()["keys"]}

    assert found[key_id] == NOW_MS
    assert len(found) == 2


def test_a_caller_may_nothing_of_the_control_plane(bench: ControlBench) -> None:
    _, text = made(bench, role="caller")

    assert status(bench, text) == 403


def test_a_token_of_the_issuer_has_its_role_and_its_name_in_the_history(tmp_path: Path) -> None:
    with an_issuer() as issuer:
        settings = issuer.settings(models_claim="models")
        key_set = KeySet(settings)
        with a_control_bench(tmp_path, tokens=TokenVerifier(settings, key_set)) as bench:
            token = issuer.token(sluice_role="admin", models=[MODEL], sub="ann@example.org")
            answer = bench.post("/promote", {"version": 1, "why": "w"}, key=token)  # its key is fetched meanwhile
            elsewhere = bench.request("GET", "/v1/models/another/rollouts", token)
            every = bench.request("GET", "/v1/keys", token)
            forged = bench.request("GET", "/v1/keys", Issuer(issuer.port, issuer.keys).token(aud="other"))

            assert (answer.status_code, answer.json()["who"]) == (200, "ann@example.org"), answer.text
            assert [one.status_code for one in (elsewhere, every, forged)] == [403, 403, 401]
            assert log(bench)[1].principal.startswith("token:")
            assert token not in str(log(bench))


def test_a_change_is_asked_and_answered_in_the_log(bench: ControlBench) -> None:
    told = {"idempotency-key": "job-7", "x-on-behalf-of": "Ann", "x-sluice-client": "10.0.0.7"}
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = told | {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = bench.request("POST", PROMOTE, json={"version": 2, "why": "gate passed"}, headers=headers)

    assert (answer.status_code, answer.headers["x-request-id"]) == (200, trace)
    asked, answered = log(bench)
    assert (asked.phase, asked.status, asked.why, asked.at_ms <= answered.at_ms) == ("asked", 0, "gate passed", True)
    assert (answered.phase, answered.status, answered.plan_revision) == ("answered", 200, 1)
    for record in (asked, answered):
        assert (record.request_id, record.route, record.method, record.model) == (trace, "promote", "POST", MODEL)
        assert (record.who, record.source, record.idempotency_key) == ("Ann (key local)", "10.0.0.7", "job-7")


def test_refused_changes_and_strangers_are_in_the_log_and_looks_are_not(bench: ControlBench) -> None:
    _, viewer = made(bench, role="viewer")
    before = len(log(bench))
    bench.request("GET", "/v1/keys")
    bench.request("POST", PROMOTE, viewer, json={"version": 1, "why": "w"})
    bench.request("GET", "/v1/keys", viewer)
    bench.request("GET", "/v1/keys", "sluice_" + "A" * 43)
    bench.request("POST", PROMOTE, json={"version": 99, "why": "w"})
    bench.request("POST", PROMOTE, json={"version": "one", "why": "w"})

    told = [(record.phase, record.status, record.principal != "") for record in log(bench)[before:]]
    assert told == [
        *(("refused", 403, True), ("refused", 403, True), ("refused", 401, False)),
        *(("asked", 0, True), ("answered", 404, True), ("refused", 400, True)),
    ]


def test_no_key_is_in_the_log_or_in_the_database(bench: ControlBench, tmp_path: Path) -> None:
    key_id, text = made(bench)
    rotated = bench.request("POST", f"/v1/keys/{key_id}/rotate", json={}).json()["key"]
    bench.request("GET", "/v1/keys", "sluice_" + "B" * 43)

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("control.db"))
    assert len(log(bench)) == 5
    assert [one for one in (text, rotated, bench.admin, "B" * 43) if one[7:].encode() in kept] == []


def test_what_cannot_be_written_down_is_not_done(bench: ControlBench, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "control.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    answer = bench.promote(1)

    assert answer.status_code == 503, answer.text
    assert "could not write the audit log" in answer.text and "nothing was done" in answer.text
    assert bench.control.plan(MODEL) is None
    assert bench.request("GET", "/v1/keys").status_code == 200  # looks go on
    with sqlite3.connect(tmp_path / "control.db") as database:
        database.execute("DROP TRIGGER full")
    assert bench.promote(1).status_code == 200


def test_an_answer_that_cannot_be_written_down_is_not_given_but_the_change_is_found(
    bench: ControlBench, tmp_path: Path
) -> None:
    with sqlite3.connect(tmp_path / "control.db") as database:
        database.execute(
            "CREATE TRIGGER half BEFORE INSERT ON audit WHEN NEW.phase = 'answered' "
            "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        )
    answer = bench.promote(1, idempotency_key="job-1")
    assert (answer.status_code, "it was done" in answer.text) == (503, True), answer.text
    with sqlite3.connect(tmp_path / "control.db") as database:
        database.execute("DROP TRIGGER half")
    again = bench.promote(1, idempotency_key="job-1")

    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert [record.phase for record in log(bench)] == ["asked", "asked", "answered"]


def test_strangers_do_not_fill_the_log() -> None:
    now_s = [0.0]
    strangers = Strangers(lambda: now_s[0])
    assert sum(strangers.one() for _ in range(1000)) == STRANGERS_AT_ONCE

    now_s[0] = 10.0
    assert sum(strangers.one() for _ in range(1000)) == 10 * STRANGERS_PER_S


def test_the_log_is_read_by_admins_a_page_at_a_time(bench: ControlBench) -> None:
    for version in (1, 2, 3):
        bench.promote(version)
    first = bench.request("GET", "/v1/audit?limit=4").json()
    second = bench.request("GET", f"/v1/audit?limit=4&before={first['before']}").json()

    assert [line["record"]["phase"] for line in first["lines"]] == ["answered", "asked"] * 2
    assert ([line["seq"] for line in first["lines"] + second["lines"]], second["before"]) == ([6, 5, 4, 3, 2, 1], None)
    assert bench.request("GET", "/v1/audit?model=another").json()["lines"] == []
    assert bench.request("GET", "/v1/audit", bench.key("operator")).status_code == 403
    assert bench.request("GET", "/v1/audit?before=x").status_code == 400


def test_a_local_key_that_was_rotated_elsewhere_is_said_to_be_no_good(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = MemoryKeyRing()
    text = local_key(tmp_path / "admin.key", ring, NOW_MS)
    ring.rotate(make_key(text, "x", "admin", created_ms=1, created_by="x").id, key_text(bytes(32)), NOW_MS, 0)

    assert local_key(tmp_path / "admin.key", ring, NOW_MS) == text
    assert "is not good (it was rotated)" in caplog.text and text not in caplog.text


def test_a_database_restored_from_a_copy_wins_after_a_while() -> None:
    ring, board = MemoryKeyRing(), MemoryKeyBoard()
    text = key_text(bytes(32))
    ring.add(make_key(text, "a", "caller", created_ms=1, created_by="x"), text)
    newer = MemoryKeyRing()
    for number in range(5):
        text = key_text(bytes([number]) * 32)
        newer.add(make_key(text, "b", "caller", created_ms=1, created_by="x"), text)
    KeyPublisher(newer, board).publish()
    publisher = KeyPublisher(ring, board)

    def names() -> set[str]:
        posted = board.read()
        return {one.principal.name for one in posted.sheet.keys} if posted else set()

    for _ in range(INSIST_AFTER - 1):
        publisher.publish()
        assert names() == {"b"}
    publisher.publish()
    assert names() == {"a"}
