"""`sluice demo` as a user runs it, on a small judged file: every process of the platform, MLflow and Celery too."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deploy.settings import PlatformSettings

MOST_S = 240.0


@pytest.fixture
def judged_file(tmp_path: Path) -> Path:
    """60 queries of 12 candidates; the label follows the first two of five features, with noise."""
    rng = np.random.default_rng(5)
    lines = []
    for query in range(60):
        features = rng.normal(size=(12, 5))
        worth = features[:, 0] + 0.5 * features[:, 1] + rng.normal(scale=0.3, size=12)
        for label, row in zip(np.digitize(worth, [0.0, 0.8, 1.6]), features, strict=True):
            pairs = " ".join(f"{i}:{value:.5f}" for i, value in enumerate(row, 1))
            lines.append(f"{label} qid:{query} {pairs}")
    path = tmp_path / "small.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def sluice(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    settings = PlatformSettings(home=home, gateway_port=0, grpc_port=0, mlflow_port=0)
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        env={**os.environ, **settings.to_environment(), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=MOST_S,
    )


def figure(printed: str, row: str) -> str:
    found = re.search(rf"│ {re.escape(row)} +│ (.+?) +│", printed)
    assert found, printed
    return found[1]


def test_the_demo_trains_serves_and_measures_and_a_second_run_reuses_what_is_there(
    tmp_path: Path, judged_file: Path
) -> None:
    home = tmp_path / "home"
    first = sluice(home, "demo", "--data", str(judged_file), "--exit")

    assert first.returncode == 0, first.stdout + first.stderr
    served = figure(first.stdout, "NDCG@10, measured from what was served")
    assert figure(first.stdout, "NDCG@10, the same model offline") == served
    assert float(served) > float(figure(first.stdout, "NDCG@10, candidates as they came")) + 0.1
    answered, archived = re.fullmatch(r"(\d+) of (\d+)", figure(first.stdout, "rankings in the archive")).groups()  # type: ignore[union-attr]
    assert answered == archived
    assert "train, register, promote" in first.stdout

    again = sluice(home, "demo", "--data", str(judged_file), "--exit")

    assert again.returncode == 0, again.stdout + again.stderr
    assert "train, register, promote" not in again.stdout
    assert figure(again.stdout, "NDCG@10, measured from what was served") == served
    assert sluice(home, "status").returncode == 4

    up = sluice(home, "up", "--detach")
    assert up.returncode == 0
    assert re.search(r"^metrics  http://\S+/metrics$", up.stdout, re.MULTILINE)
    try:
        listed = json.loads(sluice(home, "models", "list", "--json").stdout)
        assert [(row["model"], row["version"], row["aliases"]) for row in listed] == [("small", 1, ["champion"])]
        shown = json.loads(sluice(home, "models", "show", "small", "--json").stdout)
        assert shown["digest"] == listed[0]["digest"]
        assert [change["who"] for change in shown["history"]] == ["sluice demo (key local)"]
        package = home / "versions" / "small" / "1"
        assert "registered small@1" in sluice(home, "models", "register", "small", str(package)).stdout
        shutil.copytree(package, tampered := tmp_path / "tampered")
        (tampered / "profile.json").write_bytes(b"{}")
        refused = sluice(home, "models", "register", "small", str(tampered))
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("error: ")
        assert refused.stderr.count("\n") == 1
    finally:
        assert sluice(home, "down").returncode == 0
