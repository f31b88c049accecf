"""The quality at the joins of segments: that of one pass."""

import pytest
from av.codec.codec import Codec, UnknownCodecError

from overnet.benchmarks.studies.segment_joins import CODECS, measure
from overnet.imaging.moving_photographs import frames
from overnet.runtime.video.formats import Encoding

_LENGTH, _SEGMENTS = 48, 4


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_quality_does_not_dip_at_a_join(codec):
    try:
        Codec(codec, "w")
    except UnknownCodecError:
        pytest.skip(f"this FFmpeg has no {codec}")
    images = list(frames(256, 144, _LENGTH * _SEGMENTS))
    joins = measure(images, Encoding(codec, options={"g": str(_LENGTH)}), least=_LENGTH)
    assert joins.length == _LENGTH and len(joins.differences) == _SEGMENTS - 1
    assert min(joins.differences) >= -0.2, joins
    assert abs(joins.more_bytes) < 0.03, joins
