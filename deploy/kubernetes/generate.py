"""`python -m deploy.kubernetes.generate`: base/monitoring/rules.yaml from the rules of deploy/prometheus."""

from pathlib import Path

import yaml

HERE = Path(__file__).parent
SOURCES = HERE.parent / "prometheus" / "rules"
MADE = HERE / "base" / "monitoring" / "rules.yaml"
HEADER = "# Made by `python -m deploy.kubernetes.generate` of deploy/prometheus/rules: change those.\n"


def prometheus_rule(sources: Path = SOURCES) -> str:
    """The PrometheusRule with the groups of all files there, as YAML."""
    groups = [group for path in sorted(sources.glob("*.yml")) for group in yaml.safe_load(path.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "sluice", "labels": {"app.kubernetes.io/name": "sluice"}},
        "spec": {"groups": groups},
    }
    told: str = yaml.safe_dump(rule, sort_keys=False, width=1000)
    return HEADER + told


if __name__ == "__main__":
    MADE.write_text(prometheus_rule())
    print(MADE)
