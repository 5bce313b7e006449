"""`python -m deploy.models.fetch MODEL VERSION FOLDER`: one version out of the registry into a folder."""

import os
import sys
from pathlib import Path

from deploy.settings import PlatformSettings
from registry.artefacts import write
from registry.mlflow_store import MlflowStore

if __name__ == "__main__":
    model, version, folder = sys.argv[1:4]
    settings = PlatformSettings.from_environment(os.environ)
    write(MlflowStore(settings.mlflow_url).package(model, int(version)), Path(folder))
