"""Which function answers which route."""

from collections.abc import Callable, Mapping

from deploy.control import audit, drift, evidence, figures, keys, rollouts, runs, traffic
from deploy.control.asks import Ask, Reply
from deploy.control.desk import Desk

HANDLERS: Mapping[str, Callable[[Desk, Ask], Reply]] = {
    "promote": traffic.promote,
    "rollback": traffic.rollback,
    "change_plan": traffic.change_plan,
    "plan": traffic.plan,
    "history": traffic.history,
    "start_rollout": rollouts.start_rollout,
    "plan_rollout": rollouts.plan_rollout,
    "explain_rollout": rollouts.explain_rollout,
    "pause_rollout": rollouts.pause_rollout,
    "resume_rollout": rollouts.resume_rollout,
    "abort_rollout": rollouts.abort_rollout,
    "rollouts": rollouts.rollouts,
    "rollout": rollouts.rollout,
    "add_evidence": evidence.add_evidence,
    "evidence": evidence.evidence,
    "drift": drift.drift,
    "rebaseline": drift.rebaseline,
    "drift_reports": drift.drift_reports,
    "drift_report": drift.drift_report,
    "want_drift_report": drift.want_drift_report,
    "retrain": runs.retrain,
    "all_runs": runs.all_runs,
    "runs": runs.runs,
    "run": runs.run,
    "retry_run": runs.retry_run,
    "cancel_run": runs.cancel_run,
    "me": figures.me,
    "versions": figures.versions,
    "traffic": figures.traffic,
    "looks": figures.looks,
    "drift_days": figures.drift_days,
    "live": figures.live,
    "keys": keys.keys,
    "make_key": keys.make_key,
    "revoke_key": keys.revoke_key,
    "rotate_key": keys.rotate_key,
    "limit_key": keys.limit_key,
    "audit": audit.audit,
}
"""By the name that `serving.gateway.control.routes` has for the route."""
