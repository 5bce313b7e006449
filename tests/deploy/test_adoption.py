"""Models of others out of a real MLflow: exported programs are adopted, pickles are refused."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

from deploy.models.adoption import adopted_package
from registry.contracts.features import Column, FeatureView
from registry.errors import RefusedVersion, UnknownVersion
from registry.mlflow_foreign import fetch_foreign
from registry.mlflow_store import MlflowStore
from serving.program import TorchProgram
from tests.deploy.foreign_models import COLUMNS, Others, example, exported_file

# mlflow's own
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

VIEW = FeatureView("articles", "article", tuple(Column(f"c{place}") for place in range(COLUMNS)))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Others:
    folder = tmp_path_factory.mktemp("others")
    before = mlflow.get_tracking_uri()
    others = Others(f"sqlite:///{folder}/mlflow.db", (folder / "artefacts").as_uri())
    others.run_id = others.log("plain")  # type: ignore[attr-defined]
    others.client.set_registered_model_alias("plain", "champion", "1")
    yield others  # type: ignore[misc]
    mlflow.set_tracking_uri(before)


def test_a_registered_model_is_adopted_with_names_data_and_code(others: Others):
    foreign = fetch_foreign(others.tracking_uri, "models:/plain@champion")
    manifest = adopted_package("articles", foreign, VIEW).package.manifest

    assert (foreign.source, foreign.name) == ("models:/plain/1", "plain")
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.inputs] == [("features", "FP32", (-1, COLUMNS))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in manifest.outputs] == [("scores", "FP32", (-1,))]
    assert (manifest.batchable, manifest.feature_view()) == (True, VIEW)
    assert manifest.lineage.dataset == "click logs" and manifest.lineage.dataset_digest == "c0ffee"
    assert manifest.lineage.code_version == "abc123"
    assert manifest.description == "Adopted from models:/plain/1"


def test_what_was_adopted_scores_as_the_model_did(others: Others):
    package = adopted_package("articles", fetch_foreign(others.tracking_uri, "models:/plain/1"), VIEW).package
    rows = example(17)

    scores = TorchProgram(package, "cpu").score(rows, np.zeros(17, dtype=np.int64))

    assert np.allclose(scores, 2 * rows.sum(axis=1), rtol=1e-5, atol=1e-5)


def test_the_input_example_becomes_the_reference_profile(others: Others):
    adopted = adopted_package("articles", fetch_foreign(others.tracking_uri, "models:/plain/1"), VIEW)
    profile = adopted.package.profile

    assert adopted.profiled_rows == 120
    assert profile.features[1].mean == pytest.approx(float(example(120)[:, 1].mean()), abs=1e-6)
    assert profile.scores.std == pytest.approx(float(2 * example(120).sum(axis=1).std()), rel=1e-4)


def test_a_few_example_rows_are_no_profile(others: Others):
    others.log("small", rows=5)

    adopted = adopted_package("articles", fetch_foreign(others.tracking_uri, "models:/small/1"), VIEW)

    assert adopted.profiled_rows == 0
    assert adopted.package.profile.fingerprint == VIEW.fingerprint
    assert "fewer than 100 example rows" in adopted.package.profile.population


def test_without_a_view_it_serves_tensors(others: Others):
    manifest = adopted_package("tensors", fetch_foreign(others.tracking_uri, "models:/plain/1"), None).package.manifest

    assert not manifest.ranks
    assert [spec.name for spec in manifest.outputs] == ["output_0"]


def test_adopting_again_gives_the_same_version(others: Others, tmp_path: Path):
    store = MlflowStore(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "artefacts")
    packages = [
        adopted_package("articles", fetch_foreign(others.tracking_uri, uri), VIEW).package
        for uri in ("models:/plain@champion", "models:/plain/1")
    ]

    assert [store.register("articles", package) for package in packages] == [1, 1]


def test_a_logged_model_and_a_plain_file_of_a_run_are_adopted(others: Others, tmp_path: Path):
    run_id = others.log_file(exported_file(tmp_path / "ranker.pt2"))
    ranker = others.run_id  # type: ignore[attr-defined]

    for uri in (f"runs:/{ranker}/ranker", f"runs:/{run_id}/export", f"runs:/{run_id}/export/ranker.pt2"):
        manifest = adopted_package("articles", fetch_foreign(others.tracking_uri, uri), VIEW).package.manifest
        assert (manifest.description, manifest.inputs[0].shape) == (f"Adopted from {uri}", (-1, COLUMNS))


def test_a_pickled_model_is_refused_with_the_two_lines_that_export_it(others: Others, tmp_path: Path):
    others.log("pickled", serialization_format="pickle")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pth")
    run_id = others.log_file(tmp_path / "whole.pth")

    for uri, pickled in (("models:/pickled/1", "data/model.pth"), (f"runs:/{run_id}/export", "export/whole.pth")):
        with pytest.raises(RefusedVersion) as refused:
            fetch_foreign(others.tracking_uri, uri)
        told = str(refused.value)
        assert f"holds a pickled model ({pickled}), and nothing pickled is ever loaded" in told
        assert "torch.export.export(model" in told and "torch.export.save(exported" in told


def test_a_pickle_under_the_name_of_a_program_is_refused(others: Others, tmp_path: Path):
    torch.save(torch.nn.Linear(1, 1), tmp_path / "sly.pt2")
    run_id = others.log_file(tmp_path / "sly.pt2")

    with pytest.raises(RefusedVersion, match=r"torch.save file|no torch.export archive"):
        fetch_foreign(others.tracking_uri, f"runs:/{run_id}/export")


def test_of_several_programs_one_must_be_named(others: Others, tmp_path: Path):
    run_id = others.log_file(exported_file(tmp_path / "a.pt2"))
    others.client.log_artifact(run_id, str(exported_file(tmp_path / "b.pt2")), "export")

    with pytest.raises(RefusedVersion, match="holds 2 exported programs"):
        fetch_foreign(others.tracking_uri, f"runs:/{run_id}/export")
    assert fetch_foreign(others.tracking_uri, f"runs:/{run_id}/export/b.pt2").program


def test_what_is_not_there_is_unknown(others: Others, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("no model")
    run_id = others.log_file(tmp_path / "notes.txt")

    for uri in ("models:/plain@nobody", "models:/plain/9", "models:/nothing/1", f"runs:/{'0' * 32}/x", "plain"):
        with pytest.raises(UnknownVersion):
            fetch_foreign(others.tracking_uri, uri)
    with pytest.raises(UnknownVersion, match="holds no files"):
        fetch_foreign(others.tracking_uri, f"runs:/{run_id}/elsewhere")
    with pytest.raises(RefusedVersion, match="holds no exported program"):
        fetch_foreign(others.tracking_uri, f"runs:/{run_id}/export")


def test_a_program_of_one_size_is_no_ranker_and_it_says_how_to_export_it(others: Others, tmp_path: Path):
    foreign = fetch_foreign(
        others.tracking_uri, f"runs:/{others.log_file(exported_file(tmp_path / 'fixed.pt2', dynamic=False))}/export"
    )

    with pytest.raises(RefusedVersion, match=r"takes features FP32 \[4, 3\] and gives output_0 FP32 \[4\]: a ranker"):
        adopted_package("articles", foreign, VIEW)
    assert not adopted_package("tensors", foreign, None).package.manifest.batchable


def test_a_signature_that_is_not_the_programs_is_refused(others: Others):
    rows, scores = TensorSpec(np.dtype("float32"), (-1, COLUMNS)), TensorSpec(np.dtype("float64"), (-1,))
    others.log("lying", signature=ModelSignature(Schema([rows]), Schema([scores])))

    with pytest.raises(RefusedVersion, match=r"output 'output_0' is FP64 \[-1\] in its signature, FP32 \[-1\] in the"):
        adopted_package("articles", fetch_foreign(others.tracking_uri, "models:/lying/1"), VIEW)


def test_the_names_of_a_signature_are_the_tensors_names(others: Others):
    rows, scores = (
        TensorSpec(np.dtype("float32"), shape, name) for shape, name in (((-1, COLUMNS), "rows"), ((-1,), "worth"))
    )
    signature = ModelSignature(Schema([rows]), Schema([scores]))
    others.log("named", signature=signature)

    manifest = adopted_package("tensors", fetch_foreign(others.tracking_uri, "models:/named/1"), None).package.manifest

    assert [spec.name for spec in (*manifest.inputs, *manifest.outputs)] == ["rows", "worth"]


def test_a_view_of_other_columns_is_refused(others: Others):
    wide = FeatureView("wide", "article", tuple(Column(f"c{place}") for place in range(COLUMNS + 1)))

    with pytest.raises(RefusedVersion, match=r"a ranker over view 'wide' takes FP32 \[-1, 4\]"):
        adopted_package("articles", fetch_foreign(others.tracking_uri, "models:/plain/1"), wide)


def test_a_signature_of_columns_leaves_the_program_to_speak_for_itself(others: Others, tmp_path: Path):
    run_id = others.log_file(exported_file(tmp_path / "ranker.pt2"))
    signature = ModelSignature(Schema([ColSpec("float", "a")]), Schema([ColSpec("float")]))
    model = mlflow.models.Model(signature=signature)
    model.save(str(tmp_path / "MLmodel"))
    others.client.log_artifact(run_id, str(tmp_path / "MLmodel"), "export")

    foreign = fetch_foreign(others.tracking_uri, f"runs:/{run_id}/export")

    assert foreign.inputs is None
    assert adopted_package("articles", foreign, VIEW).package.manifest.inputs[0].name == "features"


def test_a_name_that_others_use_is_not_taken(others: Others):
    store = MlflowStore(others.tracking_uri)

    with pytest.raises(RefusedVersion, match="version 1 of model 'plain' in MLflow is of others"):
        store.require_ours("plain")
    store.require_ours("plain-served")
