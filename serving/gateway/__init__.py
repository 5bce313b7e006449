"""HTTP in, use case, HTTP out: translation only. Imports neither torch nor mlflow."""
