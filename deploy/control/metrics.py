"""What the control API tells Prometheus."""

from prometheus_client import Counter, Gauge

AUDIT_LEFT_OUT = Counter(
    "deploy_audit_left_out", "Refusals of callers who are not known that were too many for the audit log."
)
CONTROL_REQUESTS = Counter(
    "deploy_control_requests", "Requests of the control API, by route and HTTP status.", ["route", "status"]
)
STREAM_ENTRIES = Gauge(
    "deploy_event_stream_entries",
    "Entries of the event stream in Redis, read or not.",
    multiprocess_mode="livemax",
)
STREAM_LAG = Gauge(
    "deploy_event_stream_lag_seconds",
    "Age of the oldest entry of the event stream in Redis that a group of readers has not acknowledged; 0: none.",
    ["group"],
    multiprocess_mode="livemax",
)
