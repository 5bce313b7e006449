"""What every key ring does: finds good keys, tells revoked ones, keeps none of them."""

import pytest

from registry.api_keys import ApiKey, KeyRing, key_text, make_key
from registry.errors import UnknownKey
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
