"""A platform of tiny processes under the real supervisor: `small_platform.py NAME`.

Each process writes its name to `$SLUICE_HOME/stopped` when it is told to stop, unless it is
stubborn and ignores that.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

from deploy.processes import platform_processes
from deploy.settings import PlatformSettings
from deploy.supervision import ProcessSpec
from deploy.supervisor import supervise


def main(name: str) -> None:
    """Supervise until told to stop."""
    platforms = {
        "three": [_tiny("base"), _tiny("middle-0", "base"), _tiny("top", "middle-0")],
        "stubborn": [_tiny("stubborn")],
        "family": [_tiny("parent")],
        "looping": [ProcessSpec("looping", ("/bin/false",), ready_after_s=3600)],
    }

    def specs(settings: PlatformSettings) -> list[ProcessSpec]:
        return [platform_processes(settings)[0]] if name == "redis" else platforms[name]

    supervise(PlatformSettings.from_environment(os.environ), specs, leftover_grace_s=0.2)


def _tiny(name: str, *needs: str) -> ProcessSpec:
    home = Path(os.environ["SLUICE_HOME"])
    return ProcessSpec(
        name,
        (sys.executable, "-S", __file__, "child", name),
        is_ready=(home / f"{name}.up").exists,
        needs=needs,
        stop_grace_s=0.2 if name == "stubborn" else 20.0,
    )


def child(name: str) -> None:
    """One of the tiny processes."""
    home = Path(os.environ["SLUICE_HOME"])

    def stop(_number: int, _frame: object) -> None:
        if name != "stubborn":
            with (home / "stopped").open("a") as stopped:
                stopped.write(f"{name}\n")
            sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    if name == "parent":
        grandchild = subprocess.Popen(["sleep", "1000"])
        (home / "grandchild").write_text(str(grandchild.pid))
    print(f"WARNING {name} is up", flush=True)
    (home / f"{name}.up").touch()
    while True:
        signal.pause()


if __name__ == "__main__":
    if sys.argv[1] == "child":
        child(sys.argv[2])
    else:
        main(sys.argv[1])
