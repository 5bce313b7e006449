"""What MLflow's own pages show of our versions: asked over HTTP, as its UI asks."""

import json
import urllib.parse
import urllib.request
from typing import Any

import pytest

from registry.contracts.manifest import Lineage
from registry.mlflow_store import MlflowStore, describe_version
from registry.store import ModelStore
from tests.builders import NOW_MS, a_manifest, a_package

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

ROOTS = ("api", "ajax-api")  # for programs, for the UI


class Pages:
    """Reads as the UI does. root: `api` or `ajax-api`."""

    def __init__(self, url: str, root: str) -> None:
        self._url = f"{url}/{root}/2.0/mlflow"

    def get(self, what: str, **asked: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{what}?{urllib.parse.urlencode(asked)}", timeout=30) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def store(mlflow_server: str) -> ModelStore:
    """Two versions of a model, the second in traffic, the first archived; made once, read many times."""
    store = MlflowStore(mlflow_server)
    store.register("pages", a_package(model="pages"))
    lineage = Lineage("stdlib", "d" * 64, ("2026-01-01", "2026-01-14"), parent=1, seed=5, code_version="abc123")
    store.register("pages", a_package(2.0, model="pages", lineage=lineage, metrics={"ndcg@10": 0.42}))
    store.archive("pages", 1, NOW_MS)
    store.set_alias("pages", "champion", 2)
    store.show_traffic("pages", {1: "ab 'test' at 10 %", 2: "champion"})
    store.show_traffic("pages", {2: "champion"})
    return store


def tags(version: Any) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in version["tags"]}


@pytest.mark.parametrize("root", ROOTS)
def test_a_version_shows_its_digest_its_view_its_traffic_and_its_description(
    store: ModelStore, mlflow_server: str, root: str
) -> None:
    version = Pages(mlflow_server, root).get("model-versions/get", name="pages", version="2")["model_version"]
    stored = store.get("pages", 2)

    assert tags(version) == {
        "sluice.digest": stored.digest,
        "sluice.fingerprint": stored.manifest.fingerprint,
        "sluice.traffic": "champion",
    }
    assert version["aliases"] == ["champion"]
    assert version["description"] == describe_version(stored.manifest)
    assert version["status"] == "READY"


@pytest.mark.parametrize("root", ROOTS)
def test_an_archived_version_says_since_when_and_has_no_traffic_left(
    store: ModelStore, mlflow_server: str, root: str
) -> None:
    version = Pages(mlflow_server, root).get("model-versions/get", name="pages", version="1")["model_version"]

    assert tags(version)["sluice.archived"] == "2026-01-01T00:00:00.000+00:00"
    assert "sluice.traffic" not in tags(version)
    assert store.get("pages", 1).archived_ms == NOW_MS


@pytest.mark.parametrize("root", ROOTS)
def test_the_model_says_who_decides_and_what_its_aliases_are(store: ModelStore, mlflow_server: str, root: str) -> None:
    model = Pages(mlflow_server, root).get("registered-models/get", name="pages")["registered_model"]

    assert model["description"].startswith("Served by **Sluice**.")
    assert model["aliases"] == [{"alias": "champion", "version": "2"}]


@pytest.mark.parametrize("root", ROOTS)
def test_a_versions_run_has_its_figures_its_lineage_and_its_files(
    store: ModelStore, mlflow_server: str, root: str
) -> None:
    pages, stored = Pages(mlflow_server, root), store.get("pages", 2)
    run = pages.get("runs/get", run_id=stored.run_id)["run"]
    files = pages.get("artifacts/list", run_id=stored.run_id, path=f"sluice/{stored.digest}")["files"]

    assert {metric["key"]: metric["value"] for metric in run["data"]["metrics"]} == {"ndcg_at_10": 0.42}
    params = {param["key"]: param["value"] for param in run["data"]["params"]}
    assert (params["dataset"], params["parent"], params["code_version"]) == ("stdlib", "1", "abc123")
    assert {file["path"].rpartition("/")[2] for file in files} == {"program.pt2", "manifest.json", "profile.json"}


def test_a_description_is_markdown_that_names_what_matters() -> None:
    lineage = Lineage("logs|of\nmay", "d" * 64, ("2026-01-01", "2026-01-14"), parent=3, seed=5)
    manifest = a_manifest(lineage=lineage, metrics={"ndcg@10": 0.42}, description="Second try")

    assert describe_version(manifest).splitlines() == [
        "Second try",
        "",
        "| | |",
        "|---|---|",
        "| ndcg@10 | 0.4200 |",
        r"| trained on | logs\|of may, `dddddddddddd`, 2026-01-01 to 2026-01-14 |",
        "| parent | [version 3](#/models/codesearch/versions/3) |",
        "| seed | 5 |",
        f"| feature view | functions, 3 columns, `{manifest.fingerprint}` |",
        "| inputs | `features` FP32 [-1, 3] |",
        "| outputs | `scores` FP32 [-1] |",
    ]
