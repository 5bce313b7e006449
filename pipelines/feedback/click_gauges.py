"""Click-NDCG of the last closed window for Prometheus, by model, version and arm.

A version is a label here and nowhere else: a model gets a new one with each retraining, some thirty a year, and the
two of a rollout must be seen side by side. One that is not in the window any more shows nan, and no old figure.
"""

from dataclasses import dataclass, field
from math import nan

from pipelines import metrics
from pipelines.feedback.click_ndcg import EvidenceReport

_Labels = tuple[str, str, str, str]  # model, version, arm, simulated


@dataclass
class ClickGauges:
    """The gauges of one process, and which of them have a figure."""

    _shown: set[_Labels] = field(default_factory=set)

    def show(self, report: EvidenceReport) -> None:
        """A model's newest window."""
        now: set[_Labels] = set()
        for arm in report.arms:
            labels = (report.model, str(arm.version), arm.arm, str(arm.simulated).lower())
            metrics.CLICK_NDCG.labels(*labels).set(arm.mean)
            metrics.CLICK_NDCG_ERROR.labels(*labels).set(nan if arm.standard_error is None else arm.standard_error)
            metrics.CLICK_LISTS.labels(*labels).set(arm.lists)
            now.add(labels)
        for gone in {labels for labels in self._shown if labels[0] == report.model} - now:
            metrics.CLICK_NDCG.labels(*gone).set(nan)
            metrics.CLICK_NDCG_ERROR.labels(*gone).set(nan)
            metrics.CLICK_LISTS.labels(*gone).set(0)
        self._shown = {labels for labels in self._shown if labels[0] != report.model} | now
        for reason, count in report.left_out.items():
            metrics.LEFT_OUT.labels(report.model, reason).set(count)
