"""The file in the data folder with the key that commands on this machine use, for its owner's eyes only."""

from pathlib import Path


def read_admin_key(path: Path) -> str:
    """The key, empty if there is no file. Raises OSError if it is somebody else's."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""
