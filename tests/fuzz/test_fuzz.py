"""A small share of `python -m tests.fuzz`, and every input that broke a promise once."""

import random
from pathlib import Path

import pytest

from tests.fuzz import running
from tests.fuzz.mutation import Form, mutated
from tests.fuzz.target import READ, pure
from tests.fuzz.targets import all_targets

TARGETS = all_targets()
CRASHES = sorted((Path(__file__).parent / "crashes").glob("*.bin"))


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_input_is_read_or_refused(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]

    result = running.run(target, max(15, round(300 * target.share)), seed=7, folder=tmp_path)

    assert not result.defects, "\n".join(f"{kind}\n{trace}" for kind, (_, trace) in result.defects.items())
    assert result.read > 0


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: path.stem)
def test_what_broke_a_promise_once_does_not_again(path: Path, tmp_path: Path) -> None:
    target = TARGETS[running.target_of(path)]

    with target.opens(tmp_path) as check, running.limited_memory(), running.limited_time() as begin:
        came, trace = running.attempt(check, path.read_bytes(), begin)

    assert not trace, f"{came}\n{trace}"


def _refuses_sevens(data: bytes) -> str:
    assert b"7" not in data
    return READ


def _takes_what_is_claimed(data: bytes) -> str:
    if len(data) >= 4 and int.from_bytes(data[:4]) > 1 << 30:
        return f"{len(bytearray(int.from_bytes(data[:4])))} bytes"
    return READ


def _loops(data: bytes) -> str:
    while data.startswith(b"b"):
        pass
    return READ


@pytest.mark.parametrize("check", [_refuses_sevens, _takes_what_is_claimed, _loops])
def test_a_parser_that_breaks_its_promise_is_found_out(check: running.Check, tmp_path: Path) -> None:
    """An assertion, an allocation for a claim, and a loop without end; the loop costs its two seconds once."""
    target = pure("broken", check, lambda: [b"abcdef", b"bcdefg"][: 1 + (check is _loops)])

    result = running.run(target, 2 if check is _loops else 3000, seed=1, folder=tmp_path)

    [kind] = {kind.split()[1] for kind in result.defects}
    assert kind == {_refuses_sevens: "AssertionError", _takes_what_is_claimed: "MemoryError", _loops: "TooSlow"}[check]


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    target = TARGETS["http.rank"]

    first, second = (running.run(target, 200, seed=3, folder=tmp_path).outcomes for _ in range(2))

    assert first == second


@pytest.mark.parametrize("form", ["bytes", "json", "msgpack", "protobuf", "lines", "zip"])
def test_every_form_of_damage_takes_any_bytes(form: Form) -> None:
    rng = random.Random(5)
    data = b""

    for _ in range(300):
        data = mutated(data, [b"other", b"[1, 2]"], form, rng)
        assert len(data) <= 1 << 16
