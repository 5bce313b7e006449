"""Room for a process's metrics, before it has any.

prometheus_client maps files that have no blocks on the disk yet, so that a full disk would end the process with SIGBUS
in the middle of counting. Files that are already there it takes as they are.
"""

import os
from pathlib import Path

from deploy.errors import SluiceError

FILE_BYTES = 128 << 10  # some 800 series; a file that needs more grows by itself
_KINDS = ("counter", "histogram", *(f"gauge_{mode}" for mode in ("livemax", "livemin", "livemostrecent", "livesum")))


def reserve(folder: Path, pid: int) -> None:
    """Files of the process in PROMETHEUS_MULTIPROC_DIR, every block of them on the disk.

    Raises SluiceError if the disk has no room.
    """
    for kind in (*_KINDS, "gauge_mostrecent"):
        path = folder / f"{kind}_{pid}.db"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, FILE_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise SluiceError(f"no room for metrics in {folder}: {error.strerror}", "free some space there") from error
