"""NVML on a machine that has a GPU."""

import time

import pytest
import torch
from prometheus_client import REGISTRY

from serving.device.nvml import DeviceSampler, cuda_uuids

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PATIENCE_S = 10.0


def test_a_gpu_has_its_gauges() -> None:
    sampler = DeviceSampler(cuda_uuids(), every_s=0.05)
    sampler.start()
    until_s = time.monotonic() + PATIENCE_S
    labels = {"device": "cuda:0"}
    while REGISTRY.get_sample_value("serving_device_sm_clock_hertz", labels) is None and time.monotonic() < until_s:
        time.sleep(0.01)
    sampler.stop()
    sampler.join(PATIENCE_S)

    free = REGISTRY.get_sample_value("serving_device_memory_bytes", labels | {"kind": "free"})
    used = REGISTRY.get_sample_value("serving_device_memory_bytes", labels | {"kind": "used"})
    clock = REGISTRY.get_sample_value("serving_device_sm_clock_hertz", labels)
    load = REGISTRY.get_sample_value("serving_device_utilisation_ratio", labels)
    assert free is not None and used is not None
    assert used > 0 and free > 0
    assert clock is not None and 1e8 < clock < 1e10
    assert load is not None and 0 <= load <= 1
