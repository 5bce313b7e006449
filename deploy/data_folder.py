"""Where things lie in the data folder of an installation."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from serving.addresses import SOCKET_PATH_BYTES

MAX_REPLICAS = 64  # of a kind on one machine: each worker has a socket


@dataclass(frozen=True, slots=True)
class DataFolder:
    """home: the folder; absolute."""

    home: Path

    @property
    def redis_folder(self) -> Path:
        """Redis' append-only file and its configuration."""
        return self.home / "redis"

    @property
    def mlflow_folder(self) -> Path:
        """MLflow's database and artefacts."""
        return self.home / "mlflow"

    @property
    def artefacts_folder(self) -> Path:
        """What the MLflow server serves as artefacts."""
        return self.mlflow_folder / "artefacts"

    @property
    def admin_key_file(self) -> Path:
        """The API key of commands on this machine."""
        return self.home / "admin.key"

    @property
    def versions_folder(self) -> Path:
        """Verified copies of packages, `<model>/<version>/`."""
        return self.home / "versions"

    @property
    def archive_folder(self) -> Path:
        """Events as Parquet."""
        return self.home / "archive"

    @property
    def runs_folder(self) -> Path:
        """What runs of pipelines make, step by step."""
        return self.home / "runs"

    @property
    def collected_folder(self) -> Path:
        """Closed windows of the archive as judgements; made again if it is not there."""
        return self.home / "collected"

    @property
    def gates_folder(self) -> Path:
        """What online gates have read of the archive, summed; made again if it is not there."""
        return self.home / "gates"

    @property
    def datasets_folder(self) -> Path:
        """Data sets, made or converted."""
        return self.home / "datasets"

    @property
    def loads_folder(self) -> Path:
        """How far feature files are that were not loaded to their end."""
        return self.home / "loads"

    @property
    def journal_folder(self) -> Path:
        """The gateways' journals of events that are not in Redis yet."""
        return self.home / "journal"

    @property
    def reports_folder(self) -> Path:
        """Drift reports and evidence."""
        return self.home / "reports"

    @property
    def logs_folder(self) -> Path:
        """The log and its rotated parts."""
        return self.home / "logs"

    @property
    def log_file(self) -> Path:
        """The one log of all processes, JSON lines."""
        return self.logs_folder / "sluice.log"

    @property
    def run_folder(self) -> Path:
        """What only matters while the platform runs."""
        return self.home / "run"

    @property
    def metrics_folder(self) -> Path:
        """PROMETHEUS_MULTIPROC_DIR of all processes."""
        return self.run_folder / "metrics"

    @property
    def sockets_folder(self) -> Path:
        """Where Unix sockets lie: in the data folder, or if its path is too long for a socket
        address, in a private folder under the system's temporary one."""
        longest = os.fsencode(self.run_folder / f"worker-{MAX_REPLICAS}.sock")
        if len(longest) <= SOCKET_PATH_BYTES:
            return self.run_folder
        digest = hashlib.blake2b(os.fsencode(self.home), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"sluice-{os.getuid()}-{digest}"

    @property
    def redis_socket(self) -> Path:
        """Where the embedded Redis listens."""
        return self.sockets_folder / "redis.sock"
