"""The garbage collector, told what these processes are like."""

import gc

YOUNG_OBJECTS = 50_000


def calm() -> None:
    """Looks for cycles rarely, and never among what lives as long as the process.

    Requests leave no cycles behind: their objects die by reference count. With Python's own
    threshold of 700 objects a gateway spends a twentieth of its time looking. Call it when what
    stays has been built.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)
