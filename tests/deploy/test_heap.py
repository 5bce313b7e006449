import subprocess
import sys

BLOCKS, BLOCK_BYTES, PAGE_BYTES = 100, 1 << 20, 4096
COUNT_FAULTS = f"""
import resource, sys
from deploy.machine import heap
if sys.argv[1] == "kept":
    heap.keep()
faulted = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytes(bytearray({BLOCK_BYTES}))
before = faulted()
for _ in range({BLOCKS}):
    bytes(bytearray({BLOCK_BYTES})), bytes(bytearray({BLOCK_BYTES}))
print(faulted() - before)
"""


def page_faults(how: str) -> int:
    ended = subprocess.run([sys.executable, "-c", COUNT_FAULTS, how], capture_output=True, text=True, check=True)
    return int(ended.stdout)


def test_a_kept_heap_does_not_fetch_the_same_pages_again():
    pages_of_a_block = BLOCK_BYTES // PAGE_BYTES

    assert page_faults("kept") < 10 * pages_of_a_block
    assert page_faults("as it comes") > BLOCKS * pages_of_a_block
