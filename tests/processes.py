"""How processes of others are."""

from pathlib import Path


def is_gone(pid: int) -> bool:
    """Dead, or a corpse that nobody has collected yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before the file was opened, or before it was read
        return True
