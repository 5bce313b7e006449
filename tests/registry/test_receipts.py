from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.rollouts import RolloutControl
from registry.traffic_control import MemoryControl, SqlControl
from tests.suites.receipts import ReceiptSuite


class TestReceiptsInMemory(ReceiptSuite):
    @pytest.fixture
    def control(self) -> RolloutControl:
        return MemoryControl()


class TestReceiptsInSqlite(ReceiptSuite):
    @pytest.fixture
    def control(self, tmp_path: Path) -> Iterator[RolloutControl]:
        control = SqlControl(f"sqlite:///{tmp_path / 'control.db'}")
        yield control
        control.close()


class TestReceiptsInPostgres(ReceiptSuite):
    @pytest.fixture
    def control(self, postgres_url: str) -> Iterator[RolloutControl]:
        control = SqlControl(postgres_url)
        yield control
        control.close()
