"""docs/faults.md against the tests it names: no promise without a test, no test without a promise."""

import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "faults.md"


def named() -> list[str]:
    rows = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("|")][2:]
    return [re.findall(r"`(\w+)` \|$", row)[0] for row in rows]


def test_every_promise_names_a_test_and_every_test_has_its_promise() -> None:
    files = [HERE / "test_faults.py", HERE / "test_faults_alone.py"]
    tests = [name for file in files for name in re.findall(r"(?m)^def (test_\w+)\(", file.read_text())]

    assert sorted(named()) == sorted(tests)
