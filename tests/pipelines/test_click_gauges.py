"""What Prometheus sees of click-NDCG: the newest window, and nothing of what has left it."""

from math import isnan

from prometheus_client import REGISTRY

from pipelines.feedback.click_gauges import ClickGauges
from pipelines.feedback.click_ndcg import ArmEvidence, EvidenceReport


def a_report(*versions: tuple[int, str, float], model: str = "gauged") -> EvidenceReport:
    arms = tuple(ArmEvidence(version, arm, False, mean, None, 10, 5, 10, 5) for version, arm, mean in versions)
    return EvidenceReport(model, 0, 1, 2, "metric", arms, 10 * len(arms), 0.0, {"late": 3})


def shown(version: int, arm: str, name: str = "pipelines_click_ndcg", model: str = "gauged") -> float:
    labels = {"model": model, "version": str(version), "arm": arm, "simulated": "false"}
    value = REGISTRY.get_sample_value(name, labels)
    assert value is not None
    return value


def test_versions_are_side_by_side_while_they_are_in_the_window() -> None:
    ClickGauges().show(a_report((1, "champion", 0.4), (2, "challenger", 0.5)))

    assert (shown(1, "champion"), shown(2, "challenger")) == (0.4, 0.5)
    assert shown(2, "challenger", "pipelines_click_ndcg_lists") == 10
    assert isnan(shown(1, "champion", "pipelines_click_ndcg_standard_error"))
    assert REGISTRY.get_sample_value("pipelines_feedback_left_out_events", {"model": "gauged", "reason": "late"}) == 3


def test_a_version_that_has_left_the_window_shows_no_old_figure_and_other_models_keep_theirs() -> None:
    gauges = ClickGauges()
    gauges.show(a_report((1, "champion", 0.4), (2, "challenger", 0.5)))
    gauges.show(a_report((7, "champion", 0.3), model="other"))

    gauges.show(a_report((2, "champion", 0.6)))

    assert shown(2, "champion") == 0.6
    assert isnan(shown(1, "champion")) and isnan(shown(2, "challenger"))
    assert shown(1, "champion", "pipelines_click_ndcg_lists") == 0
    assert shown(7, "champion", model="other") == 0.3
