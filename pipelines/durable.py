"""Files that are either the old or the new one, whatever happens to the process or the machine."""

import hashlib
import os
import threading
from pathlib import Path


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Writes the file; when this returns it survives a power cut.

    A reader sees the old file or all of the new one. A crash leaves at most a hidden `.tmp` file
    beside it. Raises OSError if the disk refuses.
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{threading.get_native_id()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def make_folder(folder: Path) -> None:
    """The folder and those above it; they survive a power cut."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable: the names in it, not the files."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Makes the file's content durable, whoever wrote it."""
    _sync(path, os.O_RDONLY)


def file_digest(path: Path) -> str:
    """SHA-256 of the content, 64 digits. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
