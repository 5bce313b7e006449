"""The control API over HTTP, on SQLite: what is answered, refused, recorded, and done once."""

import json
import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import sqlalchemy as sql

from deploy.control import traffic
from deploy.control.handlers import HANDLERS
from registry.contracts.drift import ShiftRecord
from registry.roles import ROLES, Role, includes
from serving.gateway.control.routes import CONTROL_ROUTES, ControlRoute
from tests.builders import NOW_MS, a_shift_alarm, a_shift_record
from tests.deploy.control_desk import MODEL, ControlBench, a_control_bench

WHY = {"why": "as the test wants it"}
AB: dict[str, Any] = {
    "version": 2,
    **WHY,
    "steps": [{"name": "ab-10", "kind": "ab", "weight": 100}, {"name": "ab-50", "kind": "ab", "weight": 500}],
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ControlBench]:
    with a_control_bench(tmp_path) as bench:
        yield bench


@pytest.fixture(params=["sqlite", "postgres"])
def any_bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ControlBench]:
    """On each kind of database, for what their transactions decide."""
    database = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    with a_control_bench(tmp_path, database) as bench:
        yield bench


def revision(bench: ControlBench) -> int:
    plan = bench.control.plan(MODEL)
    return plan.revision if plan else 0


def told(response: httpx.Response, status: int) -> str:
    """The words of a refusal with that status."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


def started(bench: ControlBench, **changes: Any) -> str:
    """Id of a rollout of version 2 against version 1."""
    assert bench.promote(1).status_code == 200
    made = bench.post("/rollouts", AB | changes)
    assert made.status_code == 201, made.text
    return str(made.json()["rollout"]["id"])


def weight(bench: ControlBench) -> int:
    plan = bench.board.read()[MODEL]
    return sum(experiment.weight for experiment in plan.experiments)


def test_every_route_of_the_table_has_its_handler_and_no_handler_is_without_a_route() -> None:
    assert HANDLERS.keys() == {route.name for route in CONTROL_ROUTES}


def test_a_promotion_is_recorded_published_and_answered_with_its_revision(bench: ControlBench) -> None:
    answer = bench.promote(2, why="gate passed", x_on_behalf_of="Ann Lee")

    assert (answer.status_code, answer.headers["etag"]) == (200, '"1"')
    body = answer.json()
    assert (body["plan"]["champion"], body["why"], body["who"]) == (2, "gate passed", "Ann Lee (key local)")
    assert bench.board.read()[MODEL].champion == 2
    assert bench.store.aliases(MODEL) == {"champion": 2}
    assert [change.who for change in bench.control.history(MODEL)] == ["Ann Lee (key local)"]
    assert bench.get("/plan").json() == body


def test_a_rollback_returns_to_the_champion_before_without_the_registry(bench: ControlBench) -> None:
    for version in (1, 2, 3):
        bench.promote(version)
    bench.away.add("store")

    backs = [bench.post("/rollback", WHY).json()["plan"]["champion"] for _ in range(2)]

    assert backs == [2, 1]
    assert "no champion before" in told(bench.post("/rollback", WHY), 409)
    assert bench.post("/rollback", WHY | {"to": 3}).json()["plan"]["champion"] == 3
    assert "never its champion" in told(bench.post("/rollback", WHY | {"to": 4}), 409)


def test_a_rollback_does_not_wait_for_a_registry_that_hangs(
    bench: ControlBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        bench.promote(version)
    monkeypatch.setattr(traffic, "REGISTRY_PATIENCE_S", 0.05)
    bench.away.add("store hangs")

    try:
        assert bench.post("/rollback", WHY).json()["plan"]["champion"] == 1
    finally:
        bench.away.clear()


def test_a_rollback_does_not_go_to_a_version_that_may_have_no_traffic_or_is_gone(bench: ControlBench) -> None:
    for version in (4, 1, 2, 3):
        bench.promote(version)
    bench.store.archive(MODEL, 2, NOW_MS)
    bench.store.archive(MODEL, 4, NOW_MS)
    bench.store.condemn(MODEL, 4, wanted=True)
    bench.store.delete(MODEL, 4)

    assert "version 2 of model 'codesearch' is archived: `sluice models unarchive" in told(
        bench.post("/rollback", WHY), 422
    )
    assert "no version 4" in told(bench.post("/rollback", WHY | {"to": 4}), 404)
    assert bench.control.plan(MODEL).champion == 3  # type: ignore[union-attr]
    assert bench.post("/rollback", WHY | {"to": 1}).json()["plan"]["champion"] == 1


def test_a_rollback_with_a_rollout_on_its_way_ends_the_rollout_and_keeps_the_champion(bench: ControlBench) -> None:
    rollout_id = started(bench)
    assert weight(bench) == 100

    back = bench.post("/rollback", WHY).json()

    assert (back["plan"]["champion"], back["plan"]["layers"]) == (1, [])
    assert weight(bench) == 0
    assert bench.get(f"/rollouts/{rollout_id}").json()["rollout"]["state"] == "rolled_back"


def test_a_rollback_ends_all_rollouts_on_their_way_and_the_next_one_takes_the_champion(bench: ControlBench) -> None:
    bench.promote(3)
    started(bench)
    assert bench.post("/rollouts", AB | {"version": 3, "layer": "two"}).status_code == 201
    assert bench.store.aliases(MODEL) == {"champion": 1, "challenger": 2}

    back = bench.post("/rollback", WHY | {"why": "slow"}).json()

    assert (back["plan"]["champion"], back["plan"]["layers"]) == (1, [])
    assert bench.store.aliases(MODEL) == {"champion": 1}
    ended = bench.control.rollouts()
    assert [one.state for one in ended] == ["rolled_back", "rolled_back"]
    assert {bench.control.rollout_history(one.id)[-1].why for one in ended} == {"slow"}
    assert bench.post("/rollback", WHY).json()["plan"]["champion"] == 3


def test_a_rollback_while_an_a_a_runs_takes_the_champion(bench: ControlBench) -> None:
    bench.promote(3)
    started(bench, version=1, aa=True)
    assert bench.store.aliases(MODEL) == {"champion": 1}

    back = bench.post("/rollback", WHY).json()

    assert (back["plan"]["champion"], back["plan"]["layers"]) == (3, [])
    assert not [one for one in bench.control.rollouts() if one.active]


def test_a_promotion_by_hand_can_hold_back_the_champion_before(bench: ControlBench) -> None:
    assert "no champion yet" in told(bench.post("/promote", {"version": 1, "holdback": 10} | WHY), 409)
    bench.promote(1)

    plan = bench.post("/promote", {"version": 2, "holdback": 10} | WHY).json()["plan"]

    held = [(one["version"], one["weight"], one["kind"]) for layer in plan["layers"] for one in layer["experiments"]]
    assert (plan["champion"], held) == (2, [(1, 10, "holdback")])
    assert bench.post("/rollback", WHY).json()["plan"]["champion"] == 1


def test_a_rollout_is_started_paused_resumed_and_aborted(bench: ControlBench) -> None:
    rollout_id = started(bench)
    steps = [f"/rollouts/{rollout_id}/{verb}" for verb in ("pause", "resume", "abort")]

    states = [bench.post(step, WHY).json()["rollout"]["state"] for step in steps]

    assert states == ["paused", "running", "aborted"]
    assert weight(bench) == 0
    report = bench.get(f"/rollouts/{rollout_id}").json()
    assert [line["what"] for line in report["history"]] == ["started", "paused", "resumed", "aborted"]
    assert {line["who"] for line in report["history"]} == {"local"}
    assert "is aborted" in told(bench.post(steps[0], WHY), 409)
    assert bench.get("/rollouts", params={"state": "open"}).json()["rollouts"] == []
    assert [one["rollout"]["id"] for one in bench.get("/rollouts").json()["rollouts"]] == [rollout_id]


def test_a_layer_has_one_rollout_at_a_time_and_another_layer_its_own(bench: ControlBench) -> None:
    started(bench)

    assert "has rollout" in told(bench.post("/rollouts", AB | {"version": 3}), 409)
    assert bench.post("/rollouts", AB | {"version": 3, "layer": "other"}).status_code == 201


def test_a_plan_by_hand_changes_what_it_names_and_leaves_the_rest(bench: ControlBench) -> None:
    bench.promote(1)
    test = {"name": "tuning", "version": 2, "weight": 300, "kind": "interleaving"}
    first = bench.post("/plan", WHY | {"layers": [{"name": "hand", "experiments": [test]}], "explore_share": 20})
    more = {"name": "other", "version": 3, "weight": 50, "mirror_share": 10}
    grown = [{"name": "hand", "experiments": [test | {"weight": 400}, more]}]
    plan = bench.post("/plan", WHY | {"layers": grown, "overrides": [{"unit": "ann", "version": 4}]}).json()["plan"]

    assert first.status_code == 200
    (layer,) = plan["layers"]
    places = [(one["name"], one["first"], one["weight"], one["mirror_share"]) for one in layer["experiments"]]
    assert places == [("tuning", 0, 400, 0), ("other", 400, 50, 10)]
    assert layer["salt"] == first.json()["plan"]["layers"][0]["salt"]
    assert (plan["explore_share"], plan["overrides"][0]["version"], plan["champion"]) == (20, 4, 1)
    ended = bench.post("/plan", WHY | {"layers": [{"name": "hand", "experiments": []}]}).json()["plan"]
    assert (ended["layers"], ended["explore_share"]) == ([], 20)


def test_a_plan_by_hand_cannot_change_a_rollouts_experiment(bench: ControlBench) -> None:
    started(bench)
    before = bench.control.plan(MODEL)
    assert before is not None
    (experiment,) = before.experiments

    grown = {"name": experiment.name, "version": 2, "weight": 900}
    refused = bench.post("/plan", WHY | {"layers": [{"name": "rollout", "experiments": [grown]}]})

    assert "belongs to rollout" in told(refused, 409)
    assert bench.control.plan(MODEL) == before
    assert bench.post("/plan", WHY | {"explore_share": 5}).status_code == 200


def test_a_plan_that_contradicts_itself_is_refused(bench: ControlBench) -> None:
    bench.promote(1)
    wide = [{"name": name, "version": 2, "weight": 600} for name in ("a", "b")]

    assert "no 600 free buckets" in told(
        bench.post("/plan", WHY | {"layers": [{"name": "l", "experiments": wide}]}), 422
    )
    assert "is there twice" in told(bench.post("/plan", WHY | {"layers": [{"name": "l", "experiments": []}] * 2}), 422)
    assert revision(bench) == 1


def test_evidence_is_handed_in_and_shown_with_its_rollout(bench: ControlBench) -> None:
    rollout_id = started(bench)
    measured = {"kind": "offline_gate", "challenger": 2, "verdict": "passed", "body": {"lift": 0.01}} | WHY

    handed_in = bench.post("/evidence", measured)

    assert handed_in.status_code == 201
    evidence = handed_in.json()["evidence"]
    assert (evidence["champion"], evidence["champion_digest"]) == (1, bench.store.get(MODEL, 1).digest)
    assert evidence["body"] == {"lift": 0.01, "handed_in_by": "local"}
    shown = bench.get(f"/rollouts/{rollout_id}").json()["evidence"]
    assert [one["id"] for one in shown] == [handed_in.json()["id"]]
    assert bench.get("/evidence").json()["evidence"] == shown


def test_the_history_comes_in_pages_newest_first(bench: ControlBench) -> None:
    for version in (1, 2, 3, 4, 1):
        bench.promote(version)

    first = bench.get("/history", params={"limit": "2"}).json()
    second = bench.get("/history", params={"limit": "2", "before": first["next_before"]}).json()
    last = bench.get("/history", params={"limit": "2", "before": second["next_before"]}).json()

    pages = [[change["plan_revision"] for change in page["changes"]] for page in (first, second, last)]
    assert pages == [[5, 4], [3, 2], [1]]
    assert last["next_before"] is None
    assert "expected a whole number" in told(bench.get("/history", params={"limit": "many"}), 400)


@pytest.mark.parametrize("tag", ['"1"', '"7", "2"', "*"])
def test_a_condition_that_holds_lets_the_change_pass(bench: ControlBench, tag: str) -> None:
    bench.promote(1)
    if "2" in tag:
        bench.promote(2)

    assert bench.promote(3, if_match=tag).status_code == 200


@pytest.mark.parametrize("tag", ['"0"', '"2"', 'W/"1"', '"one"'])
def test_a_condition_that_does_not_hold_changes_nothing(bench: ControlBench, tag: str) -> None:
    bench.promote(1)

    assert "at revision 1" in told(bench.promote(2, if_match=tag), 412)
    assert "at revision 1" in told(bench.post("/rollback", WHY, if_match=tag), 412)
    assert "at revision 1" in told(bench.post("/rollouts", AB, if_match=tag), 412)
    assert revision(bench) == 1


def test_the_first_promotion_can_ask_that_there_is_none_yet(bench: ControlBench) -> None:
    assert "at revision 0" in told(bench.promote(1, if_match="*"), 412)
    assert bench.promote(1, if_match='"0"').status_code == 200


def test_of_twenty_promotions_decided_on_one_revision_one_wins(any_bench: ControlBench) -> None:
    for round_ in range(3):
        seen = f'"{revision(any_bench)}"'
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda i: any_bench.promote(1 + i % 4, why=f"try {i}", if_match=seen), range(20)))  # noqa: B023
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200] + [412] * 19
        (won,) = [answer.json() for answer in answers if answer.status_code == 200]
        last = any_bench.control.history(MODEL)[-1]
        assert (len(any_bench.control.history(MODEL)), last.why) == (round_ + 1, won["why"])
        assert any_bench.board.read()[MODEL] == last.plan


def test_promotions_without_a_condition_come_one_after_another(any_bench: ControlBench) -> None:
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda i: any_bench.promote(1 + i % 4, why=f"try {i}"), range(5)))

    assert [answer.status_code for answer in answers] == [200] * 5
    assert sorted(answer.json()["plan_revision"] for answer in answers) == [1, 2, 3, 4, 5]


def test_the_same_request_under_one_key_is_done_once_and_answered_alike(bench: ControlBench) -> None:
    first = bench.promote(1, idempotency_key="k1")
    bench.promote(2)

    again = bench.promote(1, idempotency_key="k1")

    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), '"1"')
    assert (again.headers["idempotency-replayed"], "idempotency-replayed" in first.headers) == ("true", False)
    assert revision(bench) == 2


def test_a_key_for_another_request_is_refused(bench: ControlBench) -> None:
    bench.promote(1, idempotency_key="k1")

    for other in (
        bench.promote(2, idempotency_key="k1"),
        bench.promote(1, why="something else", idempotency_key="k1"),
        bench.post("/rollback", WHY, idempotency_key="k1"),
    ):
        assert "another request" in told(other, 422)
    assert revision(bench) == 1


def test_a_job_that_runs_again_on_a_newer_plan_gets_the_answer_it_had(bench: ControlBench) -> None:
    bench.promote(1)
    bench.promote(2)
    assert bench.promote(3, idempotency_key="job", if_match='"1"').status_code == 412

    first = bench.promote(3, idempotency_key="job", if_match='"2"')
    again = bench.promote(3, idempotency_key="job", if_match='"3"')

    assert (first.status_code, again.status_code, again.json()) == (200, 200, first.json())
    assert revision(bench) == 3


def test_two_callers_may_use_the_same_key(bench: ControlBench) -> None:
    other = bench.key("admin")
    bench.promote(1, idempotency_key="k1")

    answer = bench.post("/promote", {"version": 2} | WHY, key=other, idempotency_key="k1")

    assert (answer.status_code, answer.json()["plan_revision"]) == (200, 2)


def test_a_refusal_under_a_key_stays_a_refusal(bench: ControlBench) -> None:
    refused = bench.post("/rollback", WHY, idempotency_key="k1")
    bench.promote(1)
    bench.promote(2)

    again = bench.post("/rollback", WHY, idempotency_key="k1")

    assert (refused.status_code, again.status_code, again.json()) == (404, 404, refused.json())


def test_a_request_refused_because_a_store_was_away_can_be_made_again(bench: ControlBench) -> None:
    bench.away.add("store")
    refused = bench.promote(1, idempotency_key="k1")
    bench.away.clear()

    assert "MLflow" in told(refused, 503)
    assert refused.headers["retry-after"] == "1"
    assert bench.promote(1, idempotency_key="k1").status_code == 200


def test_what_is_decided_but_not_published_is_published_by_the_repeated_request(bench: ControlBench) -> None:
    bench.away.add("board")
    assert "decided and recorded" in told(bench.promote(1, idempotency_key="k1"), 503)
    assert "decided and recorded" in told(bench.promote(1, idempotency_key="k1"), 503)
    bench.away.clear()

    answer = bench.promote(1, idempotency_key="k1")

    assert (answer.status_code, revision(bench)) == (200, 1)
    assert bench.board.read()[MODEL].champion == 1


def test_a_database_that_does_not_answer_is_said_to_be_away(bench: ControlBench) -> None:
    bench.promote(1)
    with bench.control.engine.begin() as connection:
        connection.execute(sql.text("ALTER TABLE traffic_plans RENAME TO gone"))

    assert "control database" in told(bench.promote(2, idempotency_key="k1"), 503)
    with bench.control.engine.begin() as connection:
        connection.execute(sql.text("ALTER TABLE gone RENAME TO traffic_plans"))
    assert bench.promote(2, idempotency_key="k1").status_code == 200


def test_requests_under_one_key_at_once_are_one(any_bench: ControlBench) -> None:
    any_bench.promote(1)
    for round_ in range(3):
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: any_bench.promote(2, idempotency_key=f"k{round_}"), range(16)))  # noqa: B023
        assert {(answer.status_code, answer.text) for answer in answers} == {(200, answers[0].text)}
        assert revision(any_bench) == 2 + round_
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda _: any_bench.post("/rollouts", AB | {"version": 3}, idempotency_key="r"), range(16))
        )
    assert {(answer.status_code, answer.text) for answer in answers} == {(201, answers[0].text)}
    assert len(any_bench.control.rollouts(MODEL)) == 1


def call(bench: ControlBench, route: ControlRoute, key: str, rollout_id: str) -> int:
    """Status of a sound request of that route."""
    bodies: dict[str, Any] = {
        "promote": WHY | {"version": 1},
        "start_rollout": AB | {"version": 3, "layer": f"l{len(bench.control.rollouts(MODEL))}"},
        "add_evidence": WHY | {"kind": "drift", "challenger": 2, "verdict": "passed"},
        "make_key": {"name": "another", "role": "viewer"},
    }
    path = route.path.replace("{model}", MODEL).replace("{id}", rollout_id)
    body = {"json": bodies.get(route.name, WHY)} if route.body else {}
    return bench.request(route.method, path, key, **body).status_code


@pytest.mark.parametrize("role", [*ROLES, None])
def test_a_role_may_what_the_table_says_and_no_more(bench: ControlBench, role: Role | None) -> None:
    rollout_id = started(bench)
    key = bench.key(role) if role else ""

    for route in sorted(CONTROL_ROUTES, key=lambda route: route.name == "promote"):  # which ends rollouts
        status = call(bench, route, key, rollout_id)
        if role is None:
            assert status == 401, route.name
        elif not includes(role, route.role):
            assert status == 403, route.name
        else:
            assert status not in (401, 403, 500), (route.name, status)


def test_who_has_no_key_learns_nothing_but_how_to_get_one(bench: ControlBench) -> None:
    bad = ["", "Bearer nonsense", f"Basic {bench.admin}", f"Bearer {bench.admin[:-1]}x", f"Bearer {bench.admin} "[:-2]]
    for authorization in bad:
        answer = bench.request("POST", f"/v1/models/{MODEL}/promote", "", headers={"authorization": authorization})
        assert "API key" in told(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_is_refused_from_then_on(bench: ControlBench) -> None:
    key = bench.key("operator")
    (known,) = [one for one in bench.request("GET", "/v1/keys").json()["keys"] if one["name"] == "a-operator"]
    assert key not in json.dumps(known)
    assert key.startswith(known["prefix"])
    assert bench.get("/rollouts", key).status_code == 200

    revoked = bench.request("POST", f"/v1/keys/{known['id']}/revoke")

    assert revoked.json()["revoked_ms"] is not None
    assert "was revoked" in told(bench.get("/rollouts", key), 401)
    assert "no API key with id" in told(bench.request("POST", "/v1/keys/nobody/revoke"), 404)


def test_a_key_is_good_for_its_models_alone(bench: ControlBench) -> None:
    bench.promote(1)
    mine, other = bench.key("admin", (MODEL,)), bench.key("admin", ("other",))

    assert bench.get("/plan", mine).status_code == 200
    assert "is for other" in told(bench.get("/plan", other), 403)
    assert "needs one for all" in told(bench.request("GET", "/v1/keys", mine), 403)


@pytest.mark.parametrize(
    "wrong",
    [{"models": [""]}, {"models": ["a b"]}, {"models": [f"{MODEL}\n"]}, {"name": "ci\n"}, {"line": "nightly\n"}],
)
def test_a_key_for_a_model_without_a_name_is_not_made(bench: ControlBench, wrong: dict[str, Any]) -> None:
    """A key of no model is one for all of them."""
    answer = bench.request("POST", "/v1/keys", json={"name": "ci", "role": "caller"} | wrong)

    assert next(iter(wrong)) in told(answer, 400)
    assert [key["name"] for key in bench.request("GET", "/v1/keys").json()["keys"]] == ["local"]


def test_a_key_is_shown_once_even_to_a_request_repeated(bench: ControlBench) -> None:
    def make() -> httpx.Response:
        body = {"name": "ci", "role": "operator"}
        return bench.request("POST", "/v1/keys", json=body, headers={"idempotency-key": "k1"})

    made, again = make(), make()

    assert made.status_code == 201
    assert "was shown once" in told(again, 409)
    assert [key["name"] for key in bench.request("GET", "/v1/keys").json()["keys"]] == ["local", "ci"]


def test_the_local_key_is_its_owners_alone_and_stays_the_same(bench: ControlBench, tmp_path: Path) -> None:
    assert stat.S_IMODE(os.stat(tmp_path / "admin.key").st_mode) == 0o600
    assert (tmp_path / "admin.key").read_text() == bench.admin + "\n"
    assert bench.admin.encode() not in (tmp_path / "control.db").read_bytes()


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/promote", {"version": 1}, "why"),
        ("/promote", {"version": 1, "why": ""}, "why"),
        ("/promote", {"version": 0} | WHY, "version"),
        ("/promote", {"version": "1"} | WHY, "version"),
        ("/promote", {"version": 1, "weigth": 3} | WHY, "weigth"),
        ("/promote", {"version": 1, "holdback": 1001} | WHY, "holdback"),
        ("/rollouts", {"version": 1, "steps": [{"name": "s", "kind": "ab"}]} | WHY, "needs traffic"),
        ("/evidence", {"kind": "Bad Kind", "challenger": 2, "verdict": "passed"} | WHY, "kind"),
        ("/plan", {"explore_share": -1} | WHY, "explore_share"),
    ],
)
def test_a_body_that_breaks_a_rule_is_refused_by_field(
    bench: ControlBench, path: str, body: dict[str, Any], words: str
) -> None:
    assert words in told(bench.post(path, body), 400)
    assert revision(bench) == 0


def test_a_header_that_breaks_a_rule_is_refused_by_name(bench: ControlBench) -> None:
    assert "If-Match" in told(bench.promote(1, if_match="7"), 400)
    assert "Idempotency-Key" in told(bench.promote(1, idempotency_key="k" * 129), 400)
    assert "X-On-Behalf-Of" in told(bench.promote(1, x_on_behalf_of="n" * 101), 400)
    raw = {"content": b'{"version": 1', "headers": {"content-type": "application/json"}}
    assert "body" in told(bench.request("POST", f"/v1/models/{MODEL}/promote", **raw), 400)
    assert "content-type" in told(bench.request("POST", f"/v1/models/{MODEL}/promote", content=b"{}"), 400)
    assert "more than" in told(bench.promote(1, why="w" * (1 << 20)), 413)


def test_what_is_not_there_is_404_in_our_words(bench: ControlBench) -> None:
    assert "no traffic plan" in told(bench.get("/plan"), 404)
    assert "no traffic plan" in told(bench.post("/rollback", WHY), 404)
    assert "no version 9" in told(bench.promote(9), 404)
    assert "no rollout" in told(bench.get("/rollouts/nothing"), 404)
    assert "promote a version first" in told(bench.post("/rollouts", AB), 404)
    assert "Not Found" in told(bench.get("/nowhere"), 404)
    rollout_id = started(bench)
    other = bench.request("GET", f"/v1/models/other/rollouts/{rollout_id}")
    assert "is of model" in told(other, 404)


def test_closed_days_are_told_with_their_open_alarms(bench: ControlBench) -> None:
    assert bench.get("/drift").json()["records"] == []
    record = a_shift_record(verdict="failed", alarms=(a_shift_alarm("price"),))
    bench.drift.publish(record)

    answer = bench.get("/drift", bench.key("viewer")).json()

    assert msgspec.convert(answer["records"], list[ShiftRecord]) == [record]
    assert answer["model"] == MODEL
