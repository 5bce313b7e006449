"""Sharing a device between models: in proportion to weights, without credit for having been away."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.shares import Shares

MODELS = ["a", "b", "c"]
LARGEST = 100

weights = st.fixed_dictionaries({model: st.floats(0.1, 10) for model in MODELS})
batches = st.lists(st.integers(1, LARGEST), min_size=1, max_size=60)


@given(weights, batches)
def test_models_that_always_wait_get_their_share_to_within_a_batch_each(
    weights: dict[str, float], batches: list[int]
) -> None:
    shares, served = Shares(weights), dict.fromkeys(MODELS, 0)
    for rows in batches:
        model = shares.turn(MODELS)
        shares.charge(model, rows)
        served[model] += rows

        for one in MODELS:
            for other in MODELS:
                apart = abs(served[one] / weights[one] - served[other] / weights[other])
                assert apart <= LARGEST / weights[one] + LARGEST / weights[other] + 1e-6


@given(batches)
def test_a_model_that_was_away_has_saved_nothing_up(alone: list[int]) -> None:
    shares = Shares()
    for rows in alone:
        shares.charge("a", rows)
    turns = []
    for _ in range(6):
        turns.append(shares.turn(["a", "b"]))
        shares.charge(turns[-1], LARGEST)

    assert abs(turns.count("a") - turns.count("b")) <= 2


def test_a_model_that_comes_waits_for_no_backlog_of_another() -> None:
    shares = Shares()
    for _ in range(50):
        shares.charge("busy", 4096)

    assert shares.turn(["busy", "newcomer"]) == "newcomer"


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan")])
def test_a_weight_that_is_none_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=r"weight of 'a'=.*: expected more than 0"):
        Shares({"a": weight})
