"""Versions that others made, made packages of ours: exported programs in MLflow, models on Triton servers."""
