"""What the control API tells Prometheus."""

from prometheus_client import Counter

CONTROL_REQUESTS = Counter(
    "deploy_control_requests", "Requests of the control API, by route and HTTP status.", ["route", "status"]
)
