"""Versions that others made, made packages of ours: exported programs in MLflow, models on Triton servers;
and copies on this machine of all that are registered."""
