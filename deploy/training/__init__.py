"""What trainings and runs of pipelines are given: data, registry, MLflow, and a process for each GPU."""
