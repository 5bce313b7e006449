"""Runs of pipelines as runs in MLflow; see `pipelines.training.run_log.RunLog`."""

import time
from collections.abc import Callable, Mapping

from registry.mlflow_store import MlflowStore


class MlflowRunLog:
    """The run of this key in the model's experiment, made if there is none and running again if it was over.

    key: of letters, digits and `-_:.`, one run's own. name: what MLflow's pages show. clock: seconds since the
    epoch. Raises StoreUnavailable, as all its methods do, if MLflow is away.
    """

    def __init__(
        self, store: MlflowStore, model: str, key: str, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._clock = store, clock
        self.run_id = store.open_run(model, key, name)
        self._steps: dict[str, set[int]] = store.curve_steps(self.run_id)

    def params(self, values: Mapping[str, object]) -> None:
        """See `RunLog`."""
        self._store.log_params(self.run_id, values)

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """See `RunLog`."""
        fresh = {name: value for name, value in values.items() if step not in self._steps.setdefault(name, set())}
        if fresh:
            self._store.log_figures(self.run_id, step, fresh, int(self._clock() * 1000))
        for name in fresh:
            self._steps[name].add(step)

    def artefact(self, name: str, content: bytes) -> None:
        """See `RunLog`."""
        self._store.log_file(self.run_id, name, content)

    def tags(self, values: Mapping[str, str]) -> None:
        """See `RunLog`."""
        self._store.log_tags(self.run_id, values)

    def end(self, succeeded: bool) -> None:
        """See `RunLog`."""
        self._store.end_run(self.run_id, succeeded)
