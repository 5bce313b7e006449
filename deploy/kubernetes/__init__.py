"""Sluice on Kubernetes, as Kustomize files: `base`, `overlays`, and `adapter` for what the autoscalers ask Prometheus.

`generate` makes the PrometheusRule of the rules of `deploy/prometheus`: one source.
"""
