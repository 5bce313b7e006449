"""What telemetry tells Prometheus of itself."""

from prometheus_client import Counter

SPANS = Counter("deploy_trace_spans", "Spans by what became of them: sent, failed, dropped.", ["outcome"])
