"""The C library's heap, told to keep the pages it has."""

import ctypes

KEPT_BYTES = 32 << 20
LARGEST_KEPT_BYTES = 8 << 20

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep() -> None:
    """Gives memory back to the kernel only when much of it is free.

    By default glibc gives back what a large request leaves and asks for it again with the next one:
    every page is then faulted in and cleared anew, a sixth of what a large JSON body costs. At most
    `KEPT_BYTES` more stay at the heap's end, blocks above `LARGEST_KEPT_BYTES` still come and go
    alone. Does nothing where the C library is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
