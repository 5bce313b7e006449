"""Files that are either the old or the new one, whatever happens to the process or the machine."""

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
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
