"""`python -m deploy.models.fetch MODEL VERSION FOLDER`: one version out of the registry into a folder."""

import os
import sys
from pathlib import Path

from deploy.settings import PlatformSettings
from registry.artefacts import write
from registry.errors import RegistryError
from registry.mlflow_store import MlflowStore
from registry.signatures import TrustedKeys

if __name__ == "__main__":
    model, version, folder = sys.argv[1:4]
    settings = PlatformSettings.from_environment(os.environ)
    store = MlflowStore(settings.mlflow_url, trusted=TrustedKeys.parse(settings.trusted_keys))
    try:
        write(store.package(model, int(version)), Path(folder))
    except RegistryError as error:
        sys.exit(str(error))
