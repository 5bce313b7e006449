"""What a test does on a machine that lacks a tool it needs."""

import os
from typing import NoReturn

import pytest


def lacks(reason: str) -> NoReturn:
    """Skips the test, with the reason; fails it where nothing may be skipped (`.ci/run`)."""
    if os.environ.get("SLUICE_TESTS_NO_SKIPS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
