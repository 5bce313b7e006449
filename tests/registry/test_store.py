"""The in-memory store; the one on MLflow is in test_mlflow_store.py."""

import subprocess
import sys

import pytest

from registry.store import MemoryStore, ModelStore
from tests.suites.model_stores import ModelStoreSuite


class TestMemoryStore(ModelStoreSuite):
    @pytest.fixture
    def store(self) -> ModelStore:
        return MemoryStore()


def test_the_floor_a_gateway_stands_on_imports_neither_torch_nor_mlflow() -> None:
    imports = "import sys, registry.board, registry.cache, registry.promotion, registry.stream, registry.mlflow_store"
    heavy = "print(*sorted({'torch', 'mlflow', 'pandas', 'pyarrow'} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", f"{imports}; {heavy}"], capture_output=True, text=True, check=True)

    assert ran.stdout.strip() == ""
