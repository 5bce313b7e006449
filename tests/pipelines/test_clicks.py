import numpy as np
import pytest

from pipelines.feedback.clicks import ClickModel, simulate_clicks

SESSIONS = 20_000


def click_shares(labels: list[float], model: ClickModel) -> np.ndarray:
    rng = np.random.default_rng(5)
    clicked = np.zeros(len(labels))
    for _ in range(SESSIONS):
        clicked[simulate_clicks(labels, model, rng) - 1] += 1
    return clicked / SESSIONS


def test_click_shares_are_examination_times_attraction() -> None:
    labels = [0.0, 4.0, 2.0, 4.0]
    model = ClickModel(eta=0.7, noise=0.1)

    expected = model.examination(4) * model.attraction(labels)

    np.testing.assert_allclose(click_shares(labels, model), expected, atol=4 * 0.5 / SESSIONS**0.5)


def test_without_position_bias_every_position_is_examined() -> None:
    assert ClickModel(eta=0.0).examination(3).tolist() == [1, 1, 1]


def test_attraction_grows_with_the_label_from_noise_to_certain() -> None:
    attraction = ClickModel(noise=0.2, max_label=3).attraction([0, 1, 2, 3, 4])

    assert attraction[0] == 0.2
    assert (np.diff(attraction[:4]) > 0).all()
    assert attraction[3] == attraction[4] == 1.0


def test_one_seed_makes_one_user() -> None:
    first, second = (simulate_clicks([1.0] * 10, ClickModel(), np.random.default_rng(3)) for _ in range(2))

    assert first.tolist() == second.tolist()
    assert sorted(set(first.tolist())) == first.tolist()


@pytest.mark.parametrize(
    ("setting", "rule"), [({"eta": -1.0}, "eta=-1"), ({"noise": 2.0}, "noise=2"), ({"max_label": 0.0}, "max_label=0")]
)
def test_settings_outside_their_rule_are_refused(setting: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ClickModel(**setting)
