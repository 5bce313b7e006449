"""The real supervisor over tiny processes, as a process of its own: `small_platform.py NAME`."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from deploy.machine.processes import platform_processes
from deploy.machine.supervision import ProcessSpec
from deploy.machine.supervisor import supervise
from deploy.settings import PlatformSettings

TINY = str(Path(__file__).with_name("tiny_process.py"))


def specs(name: str, settings: PlatformSettings) -> list[ProcessSpec]:
    """The platform that is called so."""

    def tiny(name: str, *needs: str, grace_s: float = 20.0) -> ProcessSpec:
        is_up = (settings.home / f"{name}.up").exists
        return ProcessSpec(name, (sys.executable, "-S", TINY, name), {}, is_up, needs=needs, stop_grace_s=grace_s)

    match name:
        case "three":
            return [tiny("base"), tiny("middle-0", "base"), tiny("top", "middle-0")]
        case "stubborn":
            return [tiny("stubborn", grace_s=0.2)]
        case "lingering":
            return [tiny("stubborn")]
        case "family":
            return [tiny("parent")]
        case "polite":
            return [tiny("first"), replace(tiny("second"), nice=5)]
        case "looping":
            return [ProcessSpec("looping", ("false",), ready_after_s=3600)]
        case "redis":
            return [platform_processes(settings)[0]]
        case "registry":
            wanted = {"redis", "mlflow", "controller", "gateway-0"}
            return [spec for spec in platform_processes(settings) if spec.name in wanted]
        case "reports":
            wanted = {"redis", "mlflow", "controller", "gateway-0", "celery-worker", "celery-beat"}
            return [spec for spec in platform_processes(settings) if spec.name in wanted]
        case "monitor":
            return [spec for spec in platform_processes(settings) if spec.name in ("redis", "monitor")]
    raise ValueError(name)


if __name__ == "__main__":
    supervise(
        PlatformSettings.from_environment(os.environ),
        lambda settings: specs(sys.argv[1], settings),
        leftover_grace_s=0.2,
    )
