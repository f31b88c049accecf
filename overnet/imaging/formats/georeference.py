"""GeoTIFF: where the pixels of an image lie on a map, for an image that is enlarged."""

from fractions import Fraction

import numpy as np

from overnet.imaging.formats.tiff import GEO_KEYS, PIXEL_SCALE, TIE_POINTS, TRANSFORMATION, Field

_RASTER_TYPE, _IS_POINT = 1025, 2


def scaled_georeference(fields: tuple[Field, ...], x: Fraction, y: Fraction) -> tuple[Field, ...]:
    """Return the fields of a GeoTIFF for an image that is larger by these factors and shows the same ground."""
    content = {field.tag: field.content for field in fields}
    keys = content.get(GEO_KEYS, b"")
    assert isinstance(keys, bytes)
    shorts = np.frombuffer(keys[: len(keys) // 8 * 8], "<u2").reshape(-1, 4)
    # Coordinates are those of a pixel's corner, or of its centre, which the enlargement moves.
    centre = 0.5 if [_RASTER_TYPE, 0, 1, _IS_POINT] in shorts.tolist() else 0.0
    factors = np.array([float(x), float(y)])
    changed = []
    for old in fields:
        field = old
        if field.tag in (PIXEL_SCALE, TIE_POINTS, TRANSFORMATION) and field.kind == 12:
            assert isinstance(field.content, bytes)
            numbers = np.frombuffer(field.content, "<f8").copy()
            if field.tag == PIXEL_SCALE and numbers.size == 3:
                numbers[:2] /= factors
            elif field.tag == TIE_POINTS and numbers.size % 6 == 0:
                points = numbers.reshape(-1, 6)
                points[:, :2] = (points[:, :2] + centre) * factors - centre
            elif field.tag == TRANSFORMATION and numbers.size == 16:
                matrix = numbers.reshape(4, 4)
                matrix[:, 3] += matrix[:, :2] @ (centre / factors - centre)
                matrix[:, :2] /= factors
            field = Field(old.tag, old.kind, old.count, numbers.tobytes())
        changed.append(field)
    return tuple(changed)
