from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.settings import PlatformSettings
from tests.deploy.platforms import Platforms


@pytest.fixture
def platforms(tmp_path: Path) -> Iterator[Platforms]:
    """Small platforms in an empty data folder, on free ports."""
    with Platforms(PlatformSettings(home=tmp_path / "home", gateway_port=0, grpc_port=0, mlflow_port=0)) as platforms:
        yield platforms
