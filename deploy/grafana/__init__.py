"""Dashboards as code: each module makes one, `generate` writes them into `dashboards/` as Grafana reads them.

    python -m deploy.grafana.generate

Decisions

- The JSON is in the repository: whoever watches Sluice needs Grafana, not this code. A test makes it anew and compares.
- A board answers one question, top left first, in few panels: is it well, and if not, where. Every panel says in
  its description what it shows and what to do about it; alerts and their runbook are `deploy/prometheus`.
- An arm has the same colour everywhere. Arms and versions are side by side, never added up.
- Every query is asked of a real Prometheus beside a running platform (`tests/e2e/test_prometheus.py`), and names only
  metrics and labels that the rooms declare (`tests/deploy/test_dashboards.py`).

May import: the SDK. Nothing of Sluice, and nothing imports it.
"""
