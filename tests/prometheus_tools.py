"""Debian's prometheus, promtool and amtool: the system's, or those that `deploy/scripts/prometheus-tools` unpacks."""

import shutil
from pathlib import Path

from tests.missing_tools import lacks

ROOT = Path(__file__).parent.parent
UNPACKED = ROOT / ".prometheus" / "usr" / "bin"
TEMPLATES = Path("/usr/share/prometheus/alertmanager/default.tmpl")  # Debian's alertmanager looks nowhere else


def tool(name: str) -> str:
    """Path of one of them; without it the test is skipped, or fails where nothing may be skipped."""
    found = shutil.which(name) or shutil.which(name, path=str(UNPACKED))
    return found or lacks(f"no {name}: deploy/scripts/prometheus-tools unpacks Debian's")


def alertmanager() -> str:
    """Path of one that starts; see `tool`."""
    found = tool("prometheus-alertmanager")
    return (
        found
        if TEMPLATES.exists()
        else lacks(f"no {TEMPLATES}: deploy/scripts/prometheus-tools, as root, puts it there")
    )
