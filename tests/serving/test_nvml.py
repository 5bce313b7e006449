"""Gauges of GPUs: where there is no NVML there are none, and one line says so."""

import logging

import pytest
from prometheus_client import REGISTRY

from serving.device.nvml import DeviceSampler, cuda_uuids

NOBODY = "GPU-00000000-0000-0000-0000-000000000000"


def gauges_of(device: str) -> list[str]:
    return [
        sample.name
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("device") == device
    ]


def test_a_device_that_nvml_does_not_know_has_no_gauges_and_one_line_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sampler = DeviceSampler({"nobody": NOBODY})

    with caplog.at_level(logging.INFO):
        sampler.start()
        sampler.join(10)

    assert not sampler.is_alive()
    assert gauges_of("nobody") == []
    [line] = [record.getMessage() for record in caplog.records if record.name == "serving.device.nvml"]
    assert "gauges of GPUs" in line


def test_without_devices_nothing_is_asked_and_nothing_told(caplog: pytest.LogCaptureFixture) -> None:
    sampler = DeviceSampler({})

    with caplog.at_level(logging.INFO):
        sampler.start()
        sampler.join(10)

    assert not sampler.is_alive()
    assert [record for record in caplog.records if record.name == "serving.device.nvml"] == []


def test_every_gpu_that_torch_sees_has_a_uuid_of_nvmls_form() -> None:
    assert all(len(uuid) == len(NOBODY) for uuid in cuda_uuids().values())
