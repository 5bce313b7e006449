"""Arrays laid out in one block: aligned, apart, and the same on both sides."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from serving.device.staging import ALIGNMENT_BYTES, Layout, Slot, StagingRing
from serving.device.streams import CpuDevice

SHAPES = st.lists(st.integers(0, 7), max_size=3).map(tuple)
PARTS = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.tuples(st.sampled_from(["uint8", "int32", "int64", "float32", "float64"]), SHAPES),
)


@given(wanted=PARTS)
def test_what_is_written_on_the_host_is_read_on_the_device(wanted: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    layout = Layout.of(wanted)
    block = CpuDevice().pinned(layout.size_bytes)
    written = {
        name: np.random.default_rng(i).integers(0, 100, shape).astype(dtype)
        for i, (name, (dtype, shape)) in enumerate(wanted.items())
    }

    for name, array in layout.on_host(block).items():
        array[...] = written[name]

    assert all(part.start % ALIGNMENT_BYTES == 0 for part in layout.parts.values())
    for name, tensor in layout.on_device(block).items():
        assert tensor.numpy().dtype == written[name].dtype
        np.testing.assert_array_equal(tensor.numpy(), written[name])


def test_a_slot_grows_and_keeps_what_is_large_enough() -> None:
    slot = Slot(CpuDevice())

    slot.grow(5000, 10)
    first = slot.host_in
    slot.grow(100, 10)

    assert len(slot.host_in) == len(slot.device_in) == 8192
    assert slot.host_in is first


def test_a_slot_is_taken_again_when_its_batch_is_finished() -> None:
    class Batch:
        def __init__(self, slot: Slot) -> None:
            self.slot, self.finished = slot, False
            slot.holder = self

        def finish(self) -> None:
            self.finished, self.slot.holder = True, None

    ring = StagingRing(CpuDevice(), depth=2)
    first, second = Batch(ring.take()), Batch(ring.take())

    third = ring.take()

    assert third is first.slot
    assert (first.finished, second.finished) == (True, False)
