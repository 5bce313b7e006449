from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.api_keys import KeyRing, MemoryKeyRing, SqlKeyRing, key_text
from registry.database import open_database
from tests.suites.key_rings import FIRST, KeyRingSuite, a_key


class TestMemoryKeyRing(KeyRingSuite):
    @pytest.fixture
    def ring(self) -> KeyRing:
        return MemoryKeyRing()


class TestSqlKeyRing(KeyRingSuite):
    @pytest.fixture
    def ring(self, tmp_path: Path) -> Iterator[KeyRing]:
        engine = open_database(f"sqlite:///{tmp_path / 'control.db'}")
        yield SqlKeyRing(engine)
        engine.dispose()

    def test_the_database_does_not_hold_the_key(self, ring: KeyRing, tmp_path: Path) -> None:
        ring.add(a_key(), FIRST)

        assert a_key().name.encode() in b"".join(path.read_bytes() for path in tmp_path.iterdir())
        assert FIRST.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


class TestKeyRingOnPostgres(KeyRingSuite):
    @pytest.fixture
    def ring(self, postgres_url: str) -> Iterator[KeyRing]:
        engine = open_database(postgres_url)
        yield SqlKeyRing(engine)
        engine.dispose()


def test_a_key_of_few_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 32"):
        key_text(b"short")
