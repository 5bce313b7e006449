"""Who is let in, by key, role, model and line; and that it is forgotten at once when keys change."""

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY

from serving.errors import IdentityUnknown, NotAllowed, NotAuthenticated, QueryRefused, QuotaExceeded
from serving.identity.key_sets import KeySet
from serving.identity.tokens import TokenVerifier
from serving.settings import QuotaSettings, Rates, parse_quotas
from tests.builders import NOW_MS
from tests.serving.doors import Keys, a_doorkeeper, a_text, bearer, running_leases
from tests.serving.issuers import Issuer, an_issuer, rsa_key


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with an_issuer() as issuer:
        yield issuer


def test_a_known_key_is_let_in_for_its_models(keys: Keys) -> None:
    key_id = keys.make(models=("one", "two"))
    doorkeeper = a_doorkeeper(keys)

    visit = doorkeeper.enter(bearer(a_text()), "one")
    assert visit.principal is not None and visit.principal.id == key_id
    assert doorkeeper.enter(bearer(a_text()), "one") is visit
    with pytest.raises(NotAllowed, match="is for one, two: 'three' is not one of them"):
        doorkeeper.enter(bearer(a_text()), "three")
    visit = doorkeeper.enter(bearer(a_text()), None)
    with pytest.raises(NotAllowed):
        visit.check_model("three")


def test_a_role_reaches_as_far_as_it_says(keys: Keys) -> None:
    keys.make(0, "caller")
    keys.make(1, "operator")
    doorkeeper = a_doorkeeper(keys)

    doorkeeper.enter(bearer(a_text(0)), "m", "caller")
    doorkeeper.enter(bearer(a_text(1)), "m", "operator")
    with pytest.raises(NotAllowed, match="has the role caller: this needs operator"):
        doorkeeper.enter(bearer(a_text(0)), "m", "operator")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"authorization": b""},
        {b"authorization": b"Bearer"},
        {b"authorization": b"Bearer "},
        {b"authorization": b"Basic " + a_text().encode()},
        {b"authorization": a_text().encode()},
        bearer(a_text(1)),
        bearer(a_text()[:-1]),
        bearer(a_text() + "A"),
        {b"authorization": b"Bearer \xff\xfe"},
    ],
)
def test_who_has_no_good_key_is_refused_and_told_how_to_get_one(keys: Keys, headers: dict[bytes, bytes]) -> None:
    keys.make()

    with pytest.raises(NotAuthenticated, match="sluice keys create") as caught:
        a_doorkeeper(keys).enter(headers, "m")
    assert a_text()[15:] not in str(caught.value)


def test_a_key_ends_at_its_moment_also_for_who_was_let_in_before(keys: Keys) -> None:
    keys.make(expires_ms=NOW_MS + 1000)
    now_ms = [NOW_MS]
    doorkeeper = a_doorkeeper(keys)
    doorkeeper._wall_ms = lambda: now_ms[0]

    doorkeeper.enter(bearer(a_text()), "m")
    now_ms[0] = NOW_MS + 999
    doorkeeper.enter(bearer(a_text()), "m")
    now_ms[0] = NOW_MS + 1000
    with pytest.raises(NotAuthenticated, match="has expired"):
        doorkeeper.enter(bearer(a_text()), "m")


def test_a_revoked_key_is_refused_as_soon_as_the_sheet_says_so(keys: Keys) -> None:
    key_id = keys.make()
    doorkeeper = a_doorkeeper(keys)
    doorkeeper.enter(bearer(a_text()), "m")
    keys.ring.revoke(key_id, NOW_MS)
    doorkeeper.enter(bearer(a_text()), "m")  # the sheet is on its way
    keys.follow()

    with pytest.raises(NotAuthenticated, match="revoked"):
        doorkeeper.enter(bearer(a_text()), "m")


def test_a_rotated_key_is_let_in_by_both_texts_until_the_old_one_ends(keys: Keys) -> None:
    key_id = keys.make()
    keys.ring.rotate(key_id, a_text(1), NOW_MS, grace_ms=1000)
    keys.follow()

    for number in (0, 1):
        visit = a_doorkeeper(keys).enter(bearer(a_text(number)), "m")
        assert visit.principal is not None and visit.principal.id == key_id
    later = a_doorkeeper(keys, wall_ms=NOW_MS + 1000)
    later.enter(bearer(a_text(1)), "m")
    with pytest.raises(NotAuthenticated):
        later.enter(bearer(a_text(0)), "m")


def test_before_the_first_sheet_nobody_is_said_to_be_unknown(keys: Keys) -> None:
    with pytest.raises(IdentityUnknown, match="not known yet"):
        a_doorkeeper(keys).enter(bearer(a_text()), "m")
    with pytest.raises(NotAuthenticated):
        a_doorkeeper(keys).enter({}, "m")


def test_which_keys_were_used_is_told_once(keys: Keys) -> None:
    key_id = keys.make()
    keys.make(1)
    doorkeeper = a_doorkeeper(keys)
    doorkeeper.enter(bearer(a_text()), "m")

    assert doorkeeper.drain_used() == {key_id: NOW_MS}
    assert doorkeeper.drain_used() == {}


def test_refusals_are_counted_by_reason(keys: Keys) -> None:
    keys.make(models=("one",))
    doorkeeper = a_doorkeeper(keys)

    def count(reason: str) -> float:
        return REGISTRY.get_sample_value("serving_door_refusals_total", {"reason": reason}) or 0.0

    before = {reason: count(reason) for reason in ("none", "key", "model", "role")}

    async def scenario() -> None:
        for headers, model in (({}, "one"), (bearer(a_text(1)), "one"), (bearer(a_text()), "two")):
            with pytest.raises((NotAuthenticated, NotAllowed)):
                await doorkeeper.welcome(headers, model)
        with pytest.raises(NotAllowed):
            await doorkeeper.welcome(bearer(a_text()), "one", "admin")

    asyncio.run(scenario())
    assert {reason: count(reason) - before[reason] for reason in before} == dict.fromkeys(before, 1)


def test_a_token_is_let_in_and_one_of_a_new_key_after_a_look_at_the_issuer(keys: Keys, issuer: Issuer) -> None:
    settings = issuer.settings(models_claim="models")
    key_set = KeySet(settings, clock=lambda: clock[0])
    clock = [0.0]
    key_set.refresh()
    doorkeeper = a_doorkeeper(keys, tokens=TokenVerifier(settings, key_set))
    issuer.keys["r2"] = rsa_key(2)
    clock[0] = 20.0

    async def scenario() -> None:
        told = [await doorkeeper.welcome(bearer(issuer.token(key, models="m")), "m") for key in ("r1", "r2")]
        assert [visit.principal is not None and visit.principal.name for visit in told] == ["ann", "ann"]
        with pytest.raises(NotAllowed, match="token of 'ann' is for m: 'other' is not one of them"):
            await doorkeeper.welcome(bearer(issuer.token("r1", models="m")), "other")

    asyncio.run(scenario())
    assert issuer.asked == 2


def test_a_query_draws_on_the_line_of_its_key_else_on_the_one_it_names_else_on_its_models(keys: Keys) -> None:
    keys.make(0)
    keys.make(1, line="ads")
    quotas = parse_quotas("search=1/0,ads=1/0,shop=1/0")
    doorkeeper = a_doorkeeper(keys, quotas=quotas)

    def lines(number: int, model: str, **more: str) -> list[str]:
        charges = doorkeeper.enter(bearer(a_text(number), **more), model)._charges
        return [meter.quota.name for meter, _ in charges]

    assert lines(0, "search") == ["line:search:requests"]
    assert lines(0, "search", x_sluice_line="shop") == ["line:shop:requests"]
    assert lines(0, "unlimited") == []
    assert lines(1, "search", x_sluice_line="shop") == ["line:ads:requests"]
    with pytest.raises(QueryRefused, match="expected one of ads, search, shop"):
        lines(0, "search", x_sluice_line="made-up")


def test_where_queries_are_open_lines_still_have_their_quotas(keys: Keys) -> None:
    async def scenario() -> None:
        quotas = QuotaSettings(lines={"search": Rates(0.001, 0)}, burst_s=2000.0)
        async with running_leases(quotas) as leases:
            doorkeeper = a_doorkeeper(keys, closed=False, quotas=quotas, leases=leases)
            for _ in range(2):
                await doorkeeper.enter({}, "search").admitted(1)
            await doorkeeper.enter({}, "other").admitted(1)
            with pytest.raises(QuotaExceeded, match=r"line 'search' has a quota of 0\.001 requests/s"):
                await doorkeeper.enter({}, "search").admitted(1)

    asyncio.run(scenario())


def test_what_is_remembered_is_bounded(keys: Keys) -> None:
    keys.make()
    doorkeeper = a_doorkeeper(keys)
    for number in range(10_000):
        doorkeeper.enter(bearer(a_text()), f"model-{number}")

    assert len(doorkeeper._visits) <= 4096
