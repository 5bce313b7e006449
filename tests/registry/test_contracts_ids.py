"""Laws of names and ids."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.contracts.errors import InvalidName
from registry.contracts.ids import RankingIds, check_id, hash64, model_name, model_tag

times = st.integers(0, 2**48 - 1)
tags = st.integers(0, 2**32 - 1)


def ranking_ids(secret: bytes = b"k" * 16, seed: int = 0) -> RankingIds:
    return RankingIds(secret, random.Random(seed))


@given(tag=tags, now_ms=times)
def test_an_issued_id_tells_its_time_and_model(tag: int, now_ms: int) -> None:
    issued = ranking_ids().recognise(ranking_ids().issue(tag, now_ms))

    assert (issued.model_tag, issued.issued_ms) == (tag, now_ms)


@given(tag=tags, first_ms=times, second_ms=times)
def test_ids_sort_by_time(tag: int, first_ms: int, second_ms: int) -> None:
    ids = ranking_ids()
    first, second = ids.issue(tag, first_ms), ids.issue(tag, second_ms)

    assert (first < second) == (first_ms < second_ms) or first_ms == second_ms


def test_ids_of_one_moment_differ() -> None:
    ids = ranking_ids()

    assert len({ids.issue(1, 1) for _ in range(1000)}) == 1000


@given(tag=tags, now_ms=times, place=st.integers(0, 39), character=st.sampled_from("0123456789abcdefghijklmnopqrstuv"))
def test_a_changed_id_is_not_recognised(tag: int, now_ms: int, place: int, character: str) -> None:
    ids = ranking_ids()
    issued = ids.issue(tag, now_ms)
    changed = issued[:place] + character + issued[place + 1 :]

    if changed != issued:
        with pytest.raises(InvalidName):
            ids.recognise(changed)


def test_an_id_of_another_installation_is_not_recognised() -> None:
    with pytest.raises(InvalidName, match="no ranking of this installation"):
        ranking_ids(b"k" * 16).recognise(ranking_ids(b"l" * 16).issue(1, 1))


@given(st.text())
def test_no_text_makes_recognition_fail_otherwise(text: str) -> None:
    with pytest.raises(InvalidName):
        ranking_ids().recognise(text)


@pytest.mark.parametrize("length", [0, 15, 65])
def test_a_secret_that_is_too_short_or_too_long_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="expected 16 to 64"):
        ranking_ids(b"k" * length)


@given(st.from_regex(r"[a-z0-9][a-z0-9_-]{0,63}", fullmatch=True))
def test_a_good_model_name_is_kept(name: str) -> None:
    assert model_name(name) == name


@pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a/b", "é", "a" * 65, "a\n", "..", "a.b"])
def test_a_bad_model_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidName, match="model="):
        model_name(name)


@pytest.mark.parametrize("value", ["", "a" * 257, "a\x00", "a\nb", "\x7f", "\ud800"])
def test_a_bad_id_is_refused_naming_its_field(value: str) -> None:
    with pytest.raises(InvalidName, match="item"):
        check_id("item", value)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=256))
def test_a_good_id_is_kept(value: str) -> None:
    assert check_id("item", value) == value


def test_hashes_are_the_same_in_every_release() -> None:
    assert (hash64(""), hash64("sluice")) == (0x2D06800538D394C2, hash64(b"sluice"))
    assert model_tag("codesearch") == hash64("codesearch") & 0xFFFFFFFF
