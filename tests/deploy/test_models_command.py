"""`sluice models` as a shell sees it, over a real MLflow and traffic tables on PostgreSQL."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.commands.models import models
from deploy.errors import SluiceError
from deploy.settings import PlatformSettings
from registry.artefacts import write
from tests.builders import a_package
from tests.deploy.platforms import PATIENCE_S, ROOT, Platforms
from tests.postgres import PostgresServer

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

_numbers = count()


class Shell:
    """Commands to a platform that is a Redis, an MLflow and two databases on PostgreSQL; run in this
    process, because MLflow takes seconds to import."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.settings = settings
        self._runner = CliRunner(env=settings.to_environment() | {"COLUMNS": "160", "USER": "ann"})

    def does(self, *words: str) -> str:
        """What `sluice models` prints for these words; it must not fail."""
        ran = self._runner.invoke(models, words)
        assert ran.exit_code == 0, (ran.output, ran.exception)
        return ran.stdout

    def json(self, *words: str) -> Any:
        """What it prints with --json."""
        return json.loads(self.does(*words, "--json"))

    def refuses(self, *words: str) -> str:
        """The error with which it ends."""
        ran = self._runner.invoke(models, words)
        assert isinstance(ran.exception, SluiceError), (ran.output, ran.exception)
        return str(ran.exception)


@pytest.fixture(scope="module")
def shell(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    settings = PlatformSettings(
        home=tmp_path_factory.mktemp("registry") / "home",
        gateway_port=0,
        grpc_port=0,
        mlflow_port=0,
        control_url=postgres_server.fresh_database(),
        mlflow_backend=postgres_server.fresh_database(),
    )
    with Platforms(settings) as platforms:
        platforms.ready(platforms.start("registry"))
        yield Shell(settings)


@pytest.fixture
def model() -> str:
    """A name of its own for every test: the platform is shared."""
    return f"model-{next(_numbers)}"


def test_a_version_is_registered_promoted_and_shown(shell: Shell, model: str, tmp_path: Path):
    write(a_package(model=model), tmp_path / "package")

    told = shell.does("register", model, str(tmp_path / "package"), "--promote")

    assert told == f"registered {model}@1 as champion\n"

    (listed,) = [row for row in shell.json("list") if row["model"] == model]
    assert (listed["version"], listed["aliases"]) == (1, ["champion"])
    shown = shell.json("show", model)
    assert [(change["revision"], change["who"]) for change in shown["history"]] == [(1, "ann")]


def test_a_command_that_is_told_no_control_database_changes_nothing(shell: Shell, tmp_path: Path):
    bare = {name: word for name, word in shell.settings.to_environment().items() if name != "SLUICE_CONTROL_URL"}
    refused = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "models", "list"],
        env=os.environ | bare,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert (refused.returncode, refused.stdout) == (2, "")
    assert "SLUICE_CONTROL_URL=(unset): expected the database that the platform" in refused.stderr
    assert not (shell.settings.home / "control.db").exists()


def test_passwords_stand_neither_in_the_log_nor_on_a_command_line(shell: Shell):
    url = shell.settings.mlflow_backend

    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]

    assert any(b"mlflow" in line for line in lines)
    assert not [line for line in lines if url.encode() in line]
