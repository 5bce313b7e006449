"""Memory shared with a worker: blocks never overlap, and come back."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.arena import Arena, attach


@given(st.lists(st.tuples(st.integers(1, 40_000), st.booleans()), max_size=60))
def test_blocks_in_use_never_overlap(steps: list[tuple[int, bool]]) -> None:
    arena = Arena(1 << 19)
    held: list[tuple[int, int]] = []
    for size, give_one in steps:
        start = arena.take(size)
        if start is not None:
            assert start + size <= arena.capacity_bytes
            assert all(start + size <= other or other + length <= start for other, length in held)
            held.append((start, size))
        if give_one and held:
            arena.give(*held.pop(0))
    arena.close()


def test_a_full_arena_says_so_and_has_room_again() -> None:
    arena = Arena(8192)
    first = arena.take(8000)

    assert first == 0
    assert arena.take(1) is None
    arena.give(first, 8000)
    assert arena.take(8192) == 0
    arena.close()


def test_the_other_side_sees_what_was_written_and_answers_in_place() -> None:
    arena = Arena(8192)
    other = attach(os.dup(arena.file), 8192)

    arena.memory[100:105] = b"query"
    other[200:206] = b"answer"

    assert bytes(other[100:105]) == b"query"
    assert bytes(arena.memory[200:206]) == b"answer"
    arena.close()


def test_a_file_that_is_shorter_than_its_owner_says_is_refused() -> None:
    arena = Arena(4096)

    with pytest.raises((OSError, ValueError)):
        attach(os.dup(arena.file), 1 << 20)
    arena.close()


def test_a_view_outlives_its_arena() -> None:
    arena = Arena(4096)
    view = arena.memory[:4]
    view[:] = b"kept"

    arena.close()

    assert bytes(view) == b"kept"
