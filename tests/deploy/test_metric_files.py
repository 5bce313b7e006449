"""Room for metrics on the disk before there are any: what a full one would end a process for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.errors import SluiceError
from deploy.machine.metric_files import reserve

_COUNTS = """
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
Counter("asked", "Queries.", ["model"]).labels("search").inc(3)
Gauge("held", "Versions.", multiprocess_mode="livesum").set(2)
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""


def test_every_block_of_the_files_is_on_the_disk(tmp_path: Path) -> None:
    reserve(tmp_path, 17)

    found = [path.stat() for path in tmp_path.iterdir()]
    assert len(found) == 7
    assert all(file.st_blocks * 512 >= file.st_size > 0 for file in found)


def test_the_library_counts_in_them_and_reads_those_that_nobody_used(tmp_path: Path) -> None:
    reserve(tmp_path, 17)  # of a process that counts nothing
    prepared = f"import os; from pathlib import Path; from deploy.machine.metric_files import reserve\n{_COUNTS}"
    prepared = prepared.replace("\nfrom", f"\nreserve(Path({str(tmp_path)!r}), os.getpid())\nfrom", 1)
    environment = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    told = subprocess.run([sys.executable, "-c", prepared], env=environment, capture_output=True, text=True, check=True)

    assert 'asked_total{model="search"} 3.0' in told.stdout
    assert "held 2.0" in told.stdout


def test_a_disk_that_refuses_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SluiceError, match=r"no room for metrics in .*: .*free some space"):
        reserve(tmp_path / "nowhere", 17)
