"""Models as others log them with plain MLflow and torch, without a word of ours."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

COLUMNS = 3


class Ranker(torch.nn.Module):
    """Twice the sum of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.full((COLUMNS,), 2.0))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features @ self.weights


def example(rows: int) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(0).standard_normal((rows, COLUMNS), dtype=np.float32)


class Others:
    """A team that logs models into the MLflow at this address."""

    def __init__(self, tracking_uri: str, artefacts: str | None = None) -> None:
        import mlflow

        self.tracking_uri = tracking_uri
        self.client = mlflow.MlflowClient(tracking_uri, tracking_uri)
        self._experiment = self.client.create_experiment("others", artifact_location=artefacts)

    def log(self, name: str, rows: int = 120, **options: Any) -> str:
        """With `mlflow.pytorch.log_model`, as the next version of the registered model; the run's id."""
        import mlflow.data
        import mlflow.pytorch
        from mlflow.models import infer_signature

        mlflow.set_tracking_uri(self.tracking_uri)
        given = example(rows)
        model = Ranker().eval()
        scores = model(torch.from_numpy(given)).detach().numpy()
        with warnings.catch_warnings(), mlflow.start_run(experiment_id=self._experiment) as run:
            warnings.simplefilter("ignore")
            data = mlflow.data.from_numpy(given, name="click logs", digest="c0ffee")
            mlflow.log_input(data, context="training")
            mlflow.set_tag("mlflow.source.git.commit", "abc123")
            mlflow.pytorch.log_model(
                model,
                name="ranker",
                registered_model_name=name,
                pip_requirements=["torch"],
                **{"signature": infer_signature(given, scores), "input_example": given} | options,
            )
        return str(run.info.run_id)

    def log_file(self, path: Path) -> str:
        """With plain `log_artifact`, under `export`; the run's id."""
        run_id = str(self.client.create_run(self._experiment).info.run_id)
        self.client.log_artifact(run_id, str(path), "export")
        return run_id


def exported_file(path: Path, dynamic: bool = True) -> Path:
    """As anybody exports a model: the two lines that a refusal names."""
    shapes = {"features": {0: torch.export.Dim("rows", min=1)}} if dynamic else None
    exported = torch.export.export(Ranker().eval(), (torch.zeros(4, COLUMNS),), dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return path
