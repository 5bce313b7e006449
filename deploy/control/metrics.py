"""What the control API tells Prometheus."""

from prometheus_client import Counter

AUDIT_LEFT_OUT = Counter(
    "deploy_audit_left_out", "Refusals of callers who are not known that were too many for the audit log."
)
CONTROL_REQUESTS = Counter(
    "deploy_control_requests", "Requests of the control API, by route and HTTP status.", ["route", "status"]
)
