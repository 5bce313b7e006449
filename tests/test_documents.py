"""What the documents say against what there is: links, settings, commands."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main

from deploy.cli import COMMANDS, app
from deploy.settings import PlatformSettings
from deploy.variables import FROM_FILES
from registry import artefacts
from registry.contracts.features import FeatureView

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for folder in (ROOT, *(ROOT / name for name in ("docs", "deploy", "tests", "registry", "serving", "drift")))
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)
MANUAL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_BY_ENVIRONMENT = {"replica"}
OF_CLIENTS = {"SLUICE_URL", "SLUICE_KEY"}  # of commands on another machine
OF_OTHERS = {"SLUICE_DASHBOARDS", "SLUICE_TEST_SEED"}  # Grafana's provisioning, a test


def words(path: Path) -> str:
    """The text, without what stands in blocks of code."""
    return re.sub(r"(?ms)^```.*?^```", "", path.read_text())


def anchors(path: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.+)$", words(path))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def settings_named(text: str) -> set[str]:
    return set(re.findall(r"SLUICE_[A-Z][A-Z_]*[A-Z]", text))


def settings_there_are() -> set[str]:
    fields = {field.name for field in dataclasses.fields(PlatformSettings)} - NOT_BY_ENVIRONMENT
    return {f"SLUICE_{name.upper()}" for name in fields}


def commands() -> Iterator[str]:
    group = typer.main.get_command(app)
    for name in COMMANDS:
        command = group.get_command(None, name)  # type: ignore[attr-defined]
        below = list(getattr(command, "commands", {}))
        yield from (f"{name} {one}" for one in below) if below else (name,)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", words(document)):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = document.parent / place if place else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)

    assert wrong == []


def test_settings_that_the_manual_names_exist() -> None:
    named = {name for path in MANUAL for name in settings_named(path.read_text())}

    files = {f"SLUICE_{name.upper()}_FILE" for name in FROM_FILES}
    assert named - settings_there_are() - files - OF_CLIENTS - OF_OTHERS == set()


def test_the_manual_names_every_setting() -> None:
    assert settings_there_are() - settings_named((ROOT / "docs/commands.md").read_text()) == set()


def test_the_manual_names_every_command() -> None:
    table = (ROOT / "docs/commands.md").read_text()
    listed: set[str] = set()
    for row in re.findall(r"(?m)^\| (`sluice .+?) \|", table):
        first, *others = re.findall(r"`([^`]+)`", row)
        group, *rest = first.removeprefix("sluice ").split()
        listed |= {group, f"{group} {rest[0]}" if rest else group}
        listed |= set(others) | {f"{group} {other}" for other in others}

    assert [name for name in commands() if name not in listed] == []


def test_the_readmes_own_model_is_a_version_that_may_be_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapter = (ROOT / "README.md").read_text().partition("## Your own model")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"(?ms)^```python$(.*?)^```", chapter)), {"__name__": "own"})

    package = artefacts.read(tmp_path / "my-model")
    manifest = artefacts.verify(package, package.digest)
    view = FeatureView.from_json(json.loads((tmp_path / "view.json").read_text()))
    assert manifest.feature_view() == view
    assert len(package.profile.features) == len(view.columns)


def test_kafkas_tools_are_told_where_the_cluster_is_and_how_to_log_in() -> None:
    command = (ROOT / "docs/events.md").read_text().partition("kafka-topics.sh")[2].partition("SLUICE_")[0]

    assert {"--bootstrap-server", "--command-config"} <= set(command.split())
