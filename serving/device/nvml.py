"""How the GPUs are, as NVML tells it: memory, load, power, temperature, clock.

NVML counts a machine's GPUs without regard to CUDA_VISIBLE_DEVICES, so they are found by UUID.
Without its library, or without a GPU, there are no gauges and one line in the log.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from prometheus_client import Gauge

from serving import metrics

log = logging.getLogger(__name__)

EVERY_S = 5.0


def cuda_uuids() -> dict[str, str]:
    """The GPUs that this process sees: their UUIDs by name in torch's words."""
    return {f"cuda:{i}": f"GPU-{torch.cuda.get_device_properties(i).uuid}" for i in range(torch.cuda.device_count())}


class DeviceSampler(threading.Thread):
    """Sets the gauges of these devices now and then. uuids: NVML's, by the name that labels them."""

    def __init__(self, uuids: Mapping[str, str], every_s: float = EVERY_S) -> None:
        super().__init__(name="nvml", daemon=True)
        self._uuids, self._every_s = uuids, every_s
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Samples until stopped, or until NVML is not there."""
        if not self._uuids:
            return
        try:
            import pynvml  # type: ignore[import-untyped]

            pynvml.nvmlInit()
        except (ImportError, OSError) as error:
            log.info("no gauges of GPUs: nvidia-ml-py is not there: %s", error)
            return
        except pynvml.NVMLError as error:
            log.info("no gauges of GPUs: %s", error)
            return
        try:
            handles = {name: pynvml.nvmlDeviceGetHandleByUUID(uuid) for name, uuid in self._uuids.items()}
            while not self._stop_asked.is_set():
                for name, handle in handles.items():
                    sample(pynvml, name, handle)
                self._stop_asked.wait(self._every_s)
        except pynvml.NVMLError as error:
            log.warning("no more gauges of GPUs: %s", error)
        finally:
            pynvml.nvmlShutdown()

    def stop(self) -> None:
        """Ends the thread soon."""
        self._stop_asked.set()


def sample(nvml: Any, name: str, handle: Any) -> None:
    """Sets one device's gauges; those that the device does not tell stay as they are.

    nvml: the module pynvml. Raises its NVMLError if the device is lost.
    """
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    metrics.DEVICE_MEMORY.labels(name, "used").set(memory.used)
    metrics.DEVICE_MEMORY.labels(name, "free").set(memory.total - memory.used)
    readings: tuple[tuple[Gauge, float, Callable[[], float]], ...] = (
        (metrics.DEVICE_BUSY, 0.01, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),  # percent
        (metrics.DEVICE_POWER, 0.001, lambda: nvml.nvmlDeviceGetPowerUsage(handle)),  # milliwatts
        (metrics.DEVICE_TEMPERATURE, 1, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
        (metrics.DEVICE_CLOCK, 1e6, lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),  # MHz
    )
    for gauge, unit, ask in readings:
        try:
            gauge.labels(name).set(ask() * unit)
        except nvml.NVMLError_NotSupported:
            log.debug("%s does not tell %s", name, gauge)
