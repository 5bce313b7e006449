"""A silent replica: suspected by its own measure, and a query sent again once, if there is time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.silence import SilenceRule

RULE = SilenceRule(floor_s=0.25, factor=8.0)
seconds = st.floats(0, 100)


@pytest.mark.parametrize(
    ("sent_s", "heard_s", "usual_s", "silent"),
    [
        (9.7, 0.0, 0.01, True),
        (9.8, 0.0, 0.01, False),
        (9.0, 9.8, 0.01, False),  # it answers others
        (9.0, 9.7, 0.01, True),
        (9.0, 9.0, 0.2, False),  # it is slow by nature
        (8.0, 8.0, 0.2, True),
    ],
)
def test_silence_is_measured_from_the_last_word_and_against_the_usual_time(
    sent_s: float, heard_s: float, usual_s: float, silent: bool
) -> None:
    assert RULE.is_silent(sent_s, heard_s, usual_s, now_s=10.0) is silent


@given(seconds, seconds, st.floats(0, 1), seconds, seconds, st.integers(1, 3))
def test_a_query_is_sent_again_only_once_to_a_silent_one_and_in_time(
    sent_s: float, heard_s: float, usual_s: float, deadline_s: float, now_s: float, tries: int
) -> None:
    if RULE.send_again(sent_s, heard_s, usual_s, deadline_s, now_s, tries):
        assert tries == 1
        assert RULE.is_silent(sent_s, heard_s, usual_s, now_s)
        assert now_s + usual_s < deadline_s
    else:
        assert tries != 1 or not RULE.is_silent(sent_s, heard_s, usual_s, now_s) or now_s + usual_s >= deadline_s
