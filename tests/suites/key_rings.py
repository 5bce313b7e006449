"""What every key ring does: finds good keys, tells revoked ones, keeps none of them."""

import pytest

from registry.api_keys import ApiKey, KeyRing, hash_of, key_text, make_key
from registry.errors import KeyConflict, UnknownKey
from tests.builders import NOW_MS

FIRST, SECOND = key_text(bytes(range(32))), key_text(bytes(range(1, 33)))
NEIGHBOUR = key_text(bytes(range(31)) + b"x")  # begins as FIRST does


def a_key(text: str = FIRST, name: str = "ci", created_ms: int = NOW_MS) -> ApiKey:
    return make_key(text, name, "operator", ("b", "a"), created_ms=created_ms, created_by="ann")


class KeyRingSuite:
    """Subclasses supply the fixture `ring`, without keys."""

    def test_a_key_is_found_by_its_text_alone(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        ring.add(a_key(SECOND, "other", NOW_MS + 1), SECOND)

        assert (ring.find(FIRST), ring.find(SECOND)) == (a_key(), a_key(SECOND, "other", NOW_MS + 1))
        assert a_key().models == ("a", "b")
        assert [ring.find(text) for text in (NEIGHBOUR, FIRST[:-1], FIRST + "A", "", "sluice_")] == [None] * 5

    def test_neither_key_nor_hash_is_listed(self, ring: KeyRing) -> None:
        ring.add(a_key(SECOND, "late", NOW_MS + 5), SECOND)
        ring.add(a_key(), FIRST)

        assert [key.name for key in ring.every()] == ["ci", "late"]
        assert FIRST not in str(ring.every()) and a_key().prefix == FIRST[:15]

    def test_a_revoked_key_stays_revoked(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        revoked = ring.revoke(a_key().id, NOW_MS + 9)

        assert revoked.revoked_ms == NOW_MS + 9
        ring.add(a_key(), FIRST)
        assert ring.revoke(a_key().id, NOW_MS + 20) == revoked == ring.find(FIRST)
        assert ring.every() == [revoked]

    def test_an_unknown_key_cannot_be_revoked(self, ring: KeyRing) -> None:
        with pytest.raises(UnknownKey, match="sluice keys list"):
            ring.revoke("nobody", NOW_MS)

    def test_a_rotated_key_keeps_its_id_and_both_texts_for_a_while(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        rotated = ring.rotate(a_key().id, SECOND, NOW_MS + 5, grace_ms=1000)
        new, old = ring.find(SECOND), ring.find(FIRST)

        assert new == rotated and new is not None and old is not None
        assert (new.id, old.id, new.prefix, new.old_prefix) == (a_key().id, a_key().id, SECOND[:15], FIRST[:15])
        assert (new.expires_ms, new.rotated_ms, old.expires_ms) == (None, NOW_MS + 5, NOW_MS + 1005)
        assert [old.refusal(now_ms) == "" for now_ms in (NOW_MS + 1004, NOW_MS + 1005)] == [True, False]
        assert new.refusal(NOW_MS + 10**9) == ""

    def test_a_text_from_before_the_last_rotation_but_one_is_good_no_more(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        ring.rotate(a_key().id, SECOND, NOW_MS + 5, grace_ms=10**9)
        ring.rotate(a_key().id, NEIGHBOUR, NOW_MS + 6, grace_ms=10**9)

        assert ring.find(FIRST) is None
        assert [found is not None for found in (ring.find(SECOND), ring.find(NEIGHBOUR))] == [True, True]

    def test_a_rotation_without_grace_ends_the_old_text_at_once(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        ring.rotate(a_key().id, SECOND, NOW_MS + 5, grace_ms=0)

        assert ring.find(FIRST) is None
        assert ring.find(SECOND) is not None

    def test_a_revoked_key_is_revoked_by_both_texts_and_not_rotated(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        ring.rotate(a_key().id, SECOND, NOW_MS + 5, grace_ms=10**9)
        ring.revoke(a_key().id, NOW_MS + 9)

        assert [found.revoked_ms for text in (FIRST, SECOND) if (found := ring.find(text))] == [NOW_MS + 9] * 2
        with pytest.raises(KeyConflict, match="was revoked"):
            ring.rotate(a_key().id, NEIGHBOUR, NOW_MS + 10, grace_ms=0)
        with pytest.raises(UnknownKey):
            ring.rotate("nobody", NEIGHBOUR, NOW_MS + 10, grace_ms=0)

    def test_the_sheet_has_every_text_that_may_be_good_and_no_revoked_key(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        ring.add(a_key(SECOND, "other"), SECOND)
        ring.rotate(a_key().id, NEIGHBOUR, NOW_MS + 5, grace_ms=1000)
        ends = {one.hash: one.principal.until_ms for one in ring.sheet().keys}
        assert ends == {hash_of(NEIGHBOUR): None, hash_of(FIRST): NOW_MS + 1005, hash_of(SECOND): None}

        ring.revoke(a_key().id, NOW_MS + 9)
        assert [one.hash for one in ring.sheet().keys] == [hash_of(SECOND)]

    def test_every_change_makes_a_sheet_of_a_higher_revision(self, ring: KeyRing) -> None:
        revisions = [ring.sheet().revision]
        for change in (
            lambda: ring.add(a_key(), FIRST),
            lambda: ring.add(a_key(SECOND, "other"), SECOND),
            lambda: ring.rotate(a_key().id, NEIGHBOUR, NOW_MS + 5, grace_ms=1000),
            lambda: ring.limit(a_key().id, 10.0, 500.0),
            lambda: ring.revoke(a_key().id, NOW_MS + 9),
        ):
            change()
            revisions.append(ring.sheet().revision)
        assert revisions == sorted(set(revisions))

        ring.revoke(a_key().id, NOW_MS + 10)
        ring.add(a_key(), FIRST)
        assert ring.sheet().revision == revisions[-1]

    def test_a_quota_is_kept_with_its_key(self, ring: KeyRing) -> None:
        ring.add(a_key(), FIRST)
        limited = ring.limit(a_key().id, 2.5, 1000.0)

        assert (limited.requests_per_s, limited.candidates_per_s) == (2.5, 1000.0)
        assert ring.find(FIRST) == limited
        with pytest.raises(UnknownKey):
            ring.limit("nobody", 1.0, 1.0)
