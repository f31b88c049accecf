import pytest

from overnet.runtime.video.encoding_speed import encoding_seconds


def test_the_time_follows_the_pixels_and_is_about_that_of_a_run():
    """Between what a busy small board and a fast desktop take."""
    small, large = encoding_seconds(640, 360), encoding_seconds(1280, 720)
    assert 0.0002 < small < 0.5
    assert large / small == pytest.approx(4, rel=0.9)
