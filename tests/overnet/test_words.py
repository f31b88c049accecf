import pytest

from overnet.words import counted, duration


@pytest.mark.parametrize(("number", "text"), [(0, "0 frames"), (1, "1 frame"), (2, "2 frames")])
def test_counted(number, text):
    assert counted(number, "frame") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "less than 1 s"), (7.4, "7 s"), (59.7, "1 min"), (720, "12 min"), (11_100, "3 h 5 min")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text
