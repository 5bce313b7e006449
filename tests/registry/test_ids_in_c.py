"""Ids checked, joined and hashed in C, against Python and xxhash: the same bytes and numbers, or nothing at all."""

import random
import sys
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from registry.contracts import ids as module
from registry.contracts.errors import InvalidName
from registry.contracts.ids import MAX_ID_CHARS, check_id, hash64, hashes_of, join_ids
from tests.missing_tools import lacks

MOST_BYTES = 240
ANY_ID = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=90)
LAST_OF_EACH_SIZE = "\x20\x7e\x80\xa0\xff\u0100\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"


@pytest.fixture(autouse=True)
def _built() -> None:
    if module._join_ids is None:
        lacks("a C compiler and Python's headers, when Sluice was installed: deploy/scripts/compiler")


def read(ids: Any) -> tuple[bytes, list[int]] | None:
    joined = join_ids(ids)
    return joined if joined is None else (joined[0], joined[1].tolist())


def by_python(ids: list[str]) -> tuple[bytes, list[int]]:
    return "\x00".join(ids).encode(), [xxhash.xxh3_64_intdigest(item.encode()) for item in ids]


def text_of(size: int, dice: random.Random, most: int) -> str:
    """`size` bytes of characters of up to `most` bytes each."""
    places = {1: (0x20, 0x7E), 2: (0x80, 0x7FF), 3: (0x800, 0xD7FF), 4: (0x10000, 0x10FFFF)}
    text = ""
    while size > 0:
        width = dice.randint(1, min(most, size))
        text += chr(dice.randint(*places[width]))
        size -= width
    return text


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_an_id_of_any_length_has_the_hash_that_xxhash_gives_it(most: int) -> None:
    dice = random.Random(most)
    for size in range(1, 301):
        for _ in range(8):
            text = text_of(size, dice, most)
            assert len(text.encode()) == size
            assert read([text]) == (by_python([text]) if size <= MOST_BYTES else None)


@given(st.lists(ANY_ID, min_size=1, max_size=40, unique=True))
def test_ids_that_keep_the_rules_are_joined_and_hashed(ids: list[str]) -> None:
    plain = all(len(item.encode()) <= MOST_BYTES for item in ids)

    assert read(ids) == (by_python(ids) if plain else None)


@given(st.lists(st.one_of(ANY_ID, st.text(st.characters(), max_size=4)), max_size=12))
def test_whatever_is_taken_keeps_the_rules(ids: list[str]) -> None:
    joined = read(ids)

    if joined is not None:
        assert joined == by_python(ids)
        assert len(set(ids)) == len(ids) > 0
        assert [check_id("item", item) for item in ids] == ids


def test_characters_at_the_ends_of_each_size_in_utf8_are_joined_as_python_does() -> None:
    kinds = [LAST_OF_EACH_SIZE, *LAST_OF_EACH_SIZE, *(f"{a}{b}" for a in LAST_OF_EACH_SIZE for b in LAST_OF_EACH_SIZE)]

    assert read(kinds) == by_python(kinds)


@pytest.mark.parametrize("code", [*range(0x20), 0x7F, 0xD800, 0xDBFF, 0xDC00, 0xDFFF])
@pytest.mark.parametrize("around", ["", "item-000", "é", "漢" * 20, "😀", "a" * 239])
def test_control_characters_and_surrogates_are_left_to_others(code: int, around: str) -> None:
    for item in (around + chr(code), chr(code) + around):
        with pytest.raises(InvalidName):
            check_id("item", item)
        for ids in ([item], ["before", item], [item, "after"], [str(i) for i in range(300)] + [item]):
            assert read(ids) is None


@pytest.mark.parametrize("count", [1, 16, 127, 128, 129, 240])
def test_however_many_control_characters_there_are_they_are_seen(count: int) -> None:
    for among in ([], ["a"], [f"item-{i:07}" for i in range(300)]):
        for ids in (["\n" * count], ["\n" * count, "\t" * count], ["\n" * count, *among, "\t" * (256 - count)]):
            assert read([*ids, *among]) is None


@pytest.mark.parametrize(
    "ids",
    [
        *([], [""], ["a", ""], ["", "a"], ["a", "b", "a"], ["é", "é"], ["a\x00b", "c"], ["a" * 241], ["é" * 121]),
        *(["a", b"b"], ["a", None], [1], [["a"]], ("a", "b"), "ab", None, {"a": 1}, np.array(["a"])),
        *(iter(["a"]), [type("Name", (str,), {})("a")], type("Names", (list,), {})(["a"])),
    ],
    ids=lambda ids: f"{type(ids).__name__} {str(ids)[:12]}" if isinstance(ids, list | str) else type(ids).__name__,
)
def test_what_is_not_plainly_a_list_of_distinct_ids_is_left_to_others(ids: Any) -> None:
    assert read(ids) is None


@pytest.mark.parametrize("character", ["a", "é", "漢", "😀"])
def test_longer_than_an_id_may_be_is_counted_in_characters(character: str) -> None:
    assert module._join_ids is not None
    for most in (1, 7, 60):
        assert module._join_ids([character * most], most) is not None
        assert module._join_ids([character * (most + 1)], most) is None
    assert MAX_ID_CHARS > MOST_BYTES  # so that bytes are what ends an id here


@pytest.mark.parametrize("count", [1, 2, 8, 9, 255, 256, 257, 258, 10_000, 65_535])
def test_of_many_ids_one_that_stands_there_twice_is_seen_wherever_it_is(count: int) -> None:
    ids = [f"item-{i:07}" for i in range(count)]
    dice = random.Random(count)

    assert read(ids) == by_python(ids)
    for _ in range(5):
        assert read([*ids, dice.choice(ids)]) is None
        assert read([dice.choice(ids), *ids]) is None


def test_ids_that_are_chosen_to_want_one_place_are_left_to_others() -> None:
    ids = [item for i in range(40_000) if hash64(item := f"item-{i:07}") & 0xFF == 7][:100]
    assert len(ids) == 100

    assert read(ids) is None
    assert read(ids[:60]) == by_python(ids[:60])


def test_what_was_joined_is_what_others_read() -> None:
    joined = join_ids(["a", "bc", "déf"])

    assert joined is not None
    blob, hashes = joined
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == hashes_of(blob, 3).tolist()
    assert not hashes.flags.writeable


def test_nothing_is_kept_of_what_was_read() -> None:
    text, ids = "é" * 20, [f"item {i}" for i in range(600)]
    lists = (ids, [*ids, text], [*ids, ids[0]], [*ids, "\n"], [*ids, ""])

    def kept() -> tuple[int, ...]:
        return sys.getrefcount(text), sys.getrefcount(ids[0]), sys.getsizeof(text), sys.getrefcount(None)

    before, blocks = kept(), sys.getallocatedblocks()
    for given_ids in lists * 100:
        join_ids(given_ids)

    assert np.abs(np.subtract(kept(), before)).max() < 50
    assert sys.getallocatedblocks() - blocks < 50


@pytest.mark.parametrize("arguments", [(), (["a"],), (["a"], 1, 2), (["a"], "1"), (["a"], 1.0), (["a"], 1 << 64)])
def test_other_arguments_are_refused(arguments: Any) -> None:
    assert module._join_ids is not None
    with pytest.raises((TypeError, OverflowError)):
        module._join_ids(*arguments)


def test_without_the_c_part_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "registry.contracts._ids", None)
    assert module._built() is None
    monkeypatch.setattr(module, "_join_ids", None)

    joined: tuple[bytes, NDArray[np.uint64]] | None = join_ids(["a", "b"])
    assert joined is None
