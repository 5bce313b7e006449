"""`tiny_process.py NAME`: says that it is up, and waits for the signal to stop.

Then it writes its name to `$SLUICE_HOME/stopped`, unless it is stubborn and ignores the signal.
A parent has a child of its own. Imports nothing that takes time.
"""

import os
import signal
import subprocess
import sys


def main(name: str, home: str) -> None:
    """Runs until it is stopped or killed."""

    def stop(_number: int, _frame: object) -> None:
        if name != "stubborn":
            with open(f"{home}/stopped", "a") as stopped:
                stopped.write(f"{name}\n")
            sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    if name == "parent":
        with open(f"{home}/grandchild", "w") as grandchild:
            grandchild.write(str(subprocess.Popen(["sleep", "1000"]).pid))
    print(f"WARNING {name} is up", flush=True)
    open(f"{home}/{name}.up", "w").close()
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], os.environ["SLUICE_HOME"])
