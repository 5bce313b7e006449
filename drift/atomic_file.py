"""Files that are replaced as a whole."""

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """A reader, or a crash, sees the old content or the new, never a part. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    beside.write_bytes(content)
    beside.replace(path)
