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
from deploy.commands.registry_access import promote_at_once
from deploy.errors import SluiceError
from deploy.machine.home import as_running, held
from deploy.settings import PlatformSettings
from registry.artefacts import write
from registry.contracts.manifest import CLICK_NDCG, JUDGED_NDCG, Lineage
from tests.builders import a_package
from tests.deploy.foreign_models import Others, exported_file
from tests.deploy.platforms import PATIENCE_S, ROOT, Platforms, until
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

    def aliases() -> list[Any]:
        return [row["aliases"] for row in shell.json("list") if (row["model"], row["version"]) == (model, 1)]

    until(lambda: aliases() == [["champion"]], "MLflow's alias to follow the plan")
    shown = shell.json("show", model)
    assert [(change["revision"], change["who"]) for change in shown["history"]] == [(1, "ann (key local)")]


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


def test_versions_are_compared_and_their_way_is_shown(shell: Shell, model: str, tmp_path: Path):
    first = a_package(model=model, lineage=Lineage("stdlib", "d" * 64, ("2026-01-01", "2026-01-14"), seed=5))
    second = a_package(2.0, model=model, metrics={"ndcg@10": 0.55}, lineage=Lineage("stdlib", "d" * 64, parent=1))
    for number, package in enumerate((first, second), 1):
        write(package, tmp_path / str(number))
        shell.does("register", model, str(tmp_path / str(number)), "--promote")

    compared = shell.json("compare", model, "1", "2")
    shown = shell.does("compare", model, "1", "2")
    graph = shell.json("lineage", model, "2")
    way = shell.does("lineage", model, "1")

    assert [(metric["name"], metric["b"]) for metric in compared["metrics"]] == [("ndcg@10", 0.55)]
    assert "+10.00 %" in shown and "2026-01-01 to 2026-01-14" in shown
    assert {"source": "version:1", "target": "version:2", "how": "trained on from"} in graph["edges"]
    assert "dataset stdlib" in way and "replaced by 2" in way and "sluice models register --promote" in way
    assert "no version 7" in shell.refuses("compare", model, "1", "7")
    assert "no version 7" in shell.refuses("lineage", model, "7")


def test_figures_of_different_definitions_are_refused_in_words(shell: Shell, model: str, tmp_path: Path):
    for number, metric in enumerate((JUDGED_NDCG, CLICK_NDCG), 1):
        write(a_package(model=model, metric=metric), tmp_path / str(number))
        shell.does("register", model, str(tmp_path / str(number)))

    assert "metrics not compared: the figures of 1 and 2 are different metrics" in shell.does(
        "compare", model, "1", "2"
    )


def test_archived_versions_are_collected_with_their_copies_on_this_machine(shell: Shell, model: str, tmp_path: Path):
    for number, scale in enumerate((1.0, 2.0, 3.0), 1):
        package = a_package(scale, model=model)
        write(package, tmp_path / str(number))
        write(package, shell.settings.versions_folder / model / str(number))
        shell.does("register", model, str(tmp_path / str(number)))
    write(a_package(model=model), shell.settings.versions_folder / model / "9")  # of no version
    shell.does("register", model, str(tmp_path / "3"), "--promote")

    assert "version 3 of model" in shell.refuses("archive", model, "3")
    assert shell.does("archive", model, "1") == f"archived {model}@1\n"
    assert shell.does("archive", model, "2") == f"archived {model}@2\n"
    assert shell.does("unarchive", model, "2") == f"{model}@2 is not archived\n"
    assert "is archived" in shell.refuses("register", model, str(tmp_path / "1"), "--promote")
    assert [row["version"] for row in shell.json("list") if row["model"] == model and row["archived"]] == [1]
    assert f"{model}@1" in shell.does("gc", "--dry-run", "--older-than", "0")
    early = shell.json("gc")
    assert [one["deleted"] for one in early["models"] if one["model"] == model] == [[]]
    assert early["copies"] == [[model, 9]]

    collected = shell.json("gc", "--older-than", "0")

    assert [one["deleted"] for one in collected["models"] if one["model"] == model] == [[1]]
    assert collected["copies"] == [[model, 1]]
    assert [row["version"] for row in shell.json("list") if row["model"] == model] == [2, 3]
    assert {path.name for path in (shell.settings.versions_folder / model).iterdir()} == {"2", "3"}
    assert not list(shell.settings.artefacts_folder.rglob(f"{a_package(1.0, model=model).digest}/*"))


def test_a_model_of_others_is_adopted_promoted_and_left_as_it_was(shell: Shell, tmp_path: Path):
    others = Others(as_running(shell.settings).mlflow_url)
    run_id = others.log_file(exported_file(tmp_path / "ranker.pt2"))
    others.client.create_registered_model("plain")
    others.client.create_model_version("plain", f"runs:/{run_id}/export", run_id, await_creation_for=0)
    others.client.set_registered_model_alias("plain", "live", "1")
    columns = ", ".join(f'{{"name": "{name}"}}' for name in "abc")
    view = tmp_path / "view.json"
    view.write_text(f'{{"name": "articles", "entity": "article", "columns": [{columns}]}}')

    told = shell.does("adopt", "models:/plain@live", "--view", str(view), "--promote")

    assert told.splitlines()[0] == "adopted models:/plain/1 as plain-served@1, champion"
    assert shell.json("show", "plain-served")["manifest"]["description"] == "Adopted from models:/plain/1"
    assert shell.does("adopt", "models:/plain/1", "--as", "tensors") == "adopted models:/plain/1 as tensors@1\n"
    assert "is of others: register under another name" in shell.refuses("adopt", "models:/plain/1", "--as", "plain")
    assert "expected models:/NAME@ALIAS" in shell.refuses("adopt", "plain")
    assert others.client.get_model_version("plain-served", "1").tags["sluice.traffic"] == "champion"
    (theirs,) = others.client.search_model_versions("name = 'plain'")
    assert (int(theirs.version), theirs.tags) == (1, {})
    assert others.client.get_registered_model("plain").aliases == {"live": "1"}


def test_a_platform_of_this_machine_that_names_all_engines_is_promoted_in_by_its_own_key(tmp_path: Path):
    settings = PlatformSettings(tmp_path, redis="redis://r:1", mlflow="http://m:1")

    with held(settings), pytest.raises(SluiceError, match=r"admin\.key is not there"):
        promote_at_once(settings, "search", 1, "better")
