"""Draw the sample image: a small harbour in the evening, rich in edges, fine lines and textures.

Writes `harbour_large.png` (960 x 640) and `harbour.png` (240 x 160, the large one reduced four times by MATLAB's
bicubic) beside this script. Every stroke is drawn here, so the images come under the licence of the project.

    python samples/draw_harbour.py
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from overnet.imaging.resample import imresize

Array = npt.NDArray[Any]
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float]] | Array
Pattern = Callable[[Array, Array], Array]

# All coordinates are pixels of the large image; the canvas is SUPER times larger in each dimension.
WIDTH, HEIGHT, SUPER = 960, 640, 4
HORIZON, QUAY, QUAY_WATER, QUAY_END, MOLE_WATER = 332, 374, 406, 612, 343
SUN = (716.0, 306.0)

BRICK, MORTAR, CREAM = (158, 80, 62), (190, 172, 154), (240, 228, 206)
RNG = np.random.default_rng(20)
TABLE = RNG.random((256, 256), dtype=np.float32)

# Letters of a 4 x 6 grid, each a list of strokes: cv2.putText differs between releases of OpenCV.
LETTERS: dict[str, list[list[tuple[float, float]]]] = {
    "A": [[(0, 6), (2, 0), (4, 6)], [(0.8, 4), (3.2, 4)]],
    "B": [[(0, 0), (3, 0), (3.8, 1.5), (3, 3), (0, 3), (3, 3), (4, 4.5), (3, 6), (0, 6), (0, 0)]],
    "E": [[(4, 0), (0, 0), (0, 6), (4, 6)], [(0, 3), (3, 3)]],
    "H": [[(0, 0), (0, 6)], [(4, 0), (4, 6)], [(0, 3), (4, 3)]],
    "N": [[(0, 6), (0, 0), (4, 6), (4, 0)]],
    "O": [[(1.2, 0), (2.8, 0), (4, 1.5), (4, 4.5), (2.8, 6), (1.2, 6), (0, 4.5), (0, 1.5), (1.2, 0)]],
    "R": [[(0, 6), (0, 0), (3, 0), (4, 1.5), (3, 3), (0, 3)], [(2, 3), (4, 6)]],
    "T": [[(0, 0), (4, 0)], [(2, 0), (2, 6)]],
    "U": [[(0, 0), (0, 4.5), (1.2, 6), (2.8, 6), (4, 4.5), (4, 0)]],
    "V": [[(0, 0), (2, 6), (4, 0)]],
}


def noise(u: Array, v: Array, octaves: int = 1) -> Array:
    """Return smooth noise from 0 to 1, with a distance of 1 between its coarsest maxima."""
    total, weight = np.zeros(np.broadcast(u, v).shape, np.float32), 0.0
    for octave in range(octaves):
        x, y = u * 2.0**octave + 17.3 * octave, v * 2.0**octave + 41.7 * octave
        i, j = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
        s, t = (np.clip(f, 0, 1) ** 2 * (3 - 2 * f) for f in (x - i, y - j))
        i0, i1, j0, j1 = i & 255, (i + 1) & 255, j & 255, (j + 1) & 255
        top = TABLE[j0, i0] * (1 - s) + TABLE[j0, i1] * s
        bottom = TABLE[j1, i0] * (1 - s) + TABLE[j1, i1] * s
        total += (top * (1 - t) + bottom * t) * 0.5**octave
        weight += 0.5**octave
    return total / weight


def smoothstep(low: float, high: float, value: Array) -> Array:
    """Return 0 up to `low`, 1 from `high` on, and a smooth transition between."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def rgb(red: float, green: float, blue: float) -> Array:
    """Return the colour as an array to calculate with."""
    return np.array([red, green, blue], np.float32)


def tone(colour: Colour, factor: float) -> Colour:
    """Return the colour made lighter or darker."""
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def masonry(colour: Colour, mortar: Colour, width: float, height: float, joint: float = 0.6) -> Pattern:
    """Return a pattern of bricks, or blocks of stone, in a running bond."""

    def pattern(u: Array, v: Array) -> Array:
        row = np.floor(v / height).astype(int)
        across = u / width + 0.5 * (row % 2) + 0.1 * TABLE[(row * 7) & 255, 3]
        column = np.floor(across).astype(int)
        shade = 0.78 + 0.36 * TABLE[row & 255, column & 255] + 0.2 * (noise(u / 4, v / 3, 2) - 0.5)
        gap = ((across - column) * width < joint) | (v - row * height < joint)
        return np.where(gap[..., None], rgb(*mortar), rgb(*colour) * shade[..., None])

    return pattern


def tiles(colour: Colour, width: float = 5, height: float = 4.4) -> Pattern:
    """Return a pattern of roof tiles with round ends, each row overlapping the one below."""

    def pattern(u: Array, v: Array) -> Array:
        row = np.floor(v / height).astype(int)
        across = u / width + 0.5 * (row % 2)
        column = np.floor(across).astype(int)
        side = 2 * (across - column) - 1
        down = (v / height - row) + 0.3 * side**2
        shade: Array = (0.8 + 0.35 * TABLE[column & 255, row & 255]) * (1.08 - 0.3 * side**2)
        shade = np.where(down > 0.86, 0.5, 1) * shade * (0.85 + 0.3 * noise(u / 20, v / 9, 2))
        return rgb(*colour) * shade[..., None]

    return pattern


def boards(colour: Colour, pitch: float = 4, *, upright: bool = False) -> Pattern:
    """Return a pattern of wooden boards with dark joints and grain along them."""

    def pattern(u: Array, v: Array) -> Array:
        along, across = (v, u) if upright else (u, v)
        board = np.floor(across / pitch).astype(int)
        inside = across / pitch - board
        grain = noise(along / 14 + 31 * board, across * 1.6, 2)
        shade: Array = (0.85 + 0.2 * TABLE[board & 255, 9]) * np.where(inside < 0.16, 0.62, 0.88 + 0.14 * inside)
        return rgb(*colour) * (shade * (0.86 + 0.28 * grain))[..., None]

    return pattern


def plaster(colour: Colour) -> Pattern:
    """Return a pattern of a rendered, slightly stained wall."""

    def pattern(u: Array, v: Array) -> Array:
        return rgb(*colour) * (0.84 + 0.2 * noise(u / 22, v / 40, 3) + 0.1 * noise(u, v))[..., None]

    return pattern


class Pen:
    """Draws on an image; with a `waterline`, it draws everything mirrored below this line."""

    def __init__(self, image: Array, waterline: float | None = None) -> None:
        self.image, self.waterline = image, waterline

    def _fixed(self, points: Points) -> Array:
        # OpenCV takes coordinates in fixed point; 4 fractional bits are enough for what is reduced afterwards.
        placed = np.array(points, np.float64).reshape(-1, 2)
        if self.waterline is not None:
            placed[:, 1] = 2 * self.waterline - placed[:, 1]
        return np.round((placed * SUPER - 0.5) * 16).astype(np.int32)

    def fill(self, points: Points, colour: Colour) -> None:
        """Fill a polygon with one colour."""
        cv2.fillPoly(self.image, [self._fixed(points)], colour, cv2.LINE_8, 4)

    def line(self, points: Points, colour: Colour, width: float = 0.75) -> None:
        """Draw a line through the points."""
        thickness = max(1, round(width * SUPER))
        cv2.polylines(self.image, [self._fixed(points)], False, colour, thickness, cv2.LINE_8, 4)

    def comb(self, first: Points, last: Points, count: int, colour: Colour, width: float = 0.5) -> None:
        """Draw `count` lines from `first` to `last`, evenly spread."""
        for t in np.linspace(0, 1, count):
            self.line((1 - t) * np.array(first) + t * np.array(last), colour, width)

    def oval(self, x: float, y: float, radius: float, colour: Colour, squash: float = 1.0, angle: float = 0.0) -> None:
        """Fill an ellipse; `squash` is its minor axis over its major axis, `angle` its rotation in radians."""
        turn = np.linspace(0, 2 * np.pi, 33)
        a, b = radius * np.cos(turn), radius * squash * np.sin(turn)
        self.fill(
            np.stack([x + a * np.cos(angle) - b * np.sin(angle), y + a * np.sin(angle) + b * np.cos(angle)], 1), colour
        )

    def box(self, x: float, y: float, width: float, height: float, paint: Colour | Pattern) -> None:
        """Fill an upright rectangle with a colour or a pattern."""
        corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
        if callable(paint):
            self.cover(corners, paint)
        else:
            self.fill(corners, paint)

    def cover(self, points: Points, pattern: Pattern, fade: Colour = (1, 1, 1)) -> None:
        """Fill a polygon with a pattern, multiplied by 1 at its top and by `fade` at its bottom."""
        fixed = self._fixed(points)
        shape = self.image.shape
        left, top = np.maximum(fixed.min(0) // 16, 0)
        right, bottom = np.minimum(fixed.max(0) // 16 + 2, (shape[1], shape[0]))
        if left >= right or top >= bottom:
            return
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [fixed - np.array([left, top], np.int32) * 16], 1, cv2.LINE_8, 4)
        v, u = np.mgrid[top:bottom, left:right].astype(np.float32) / SUPER
        down = np.linspace(0, 1, bottom - top, dtype=np.float32)[:, None, None]
        colours = pattern(u, v) * (1 + down * (rgb(*fade) - 1))
        np.copyto(self.image[top:bottom, left:right], colours, where=mask[..., None] > 0)

    def text(self, words: str, x: float, y: float, height: float, colour: Colour, width: float = 1.0) -> None:
        """Write text in LETTERS; `x` and `y` are its top left corner."""
        unit = height / 6
        for place, letter in enumerate(words):
            for stroke in LETTERS.get(letter, []):
                self.line([(x + (5.8 * place + a) * unit, y + b * unit) for a, b in stroke], colour, width)


def draw_sky(image: Array) -> None:
    """Draw the evening sky, brightest around the sun, with clouds lit from there."""
    # Nothing in the sky is sharp, so half the resolution is enough.
    y, x = np.minimum(np.mgrid[0 : HEIGHT * 2, 0 : WIDTH * 2].astype(np.float32) / 2, [[[HORIZON]], [[WIDTH]]])
    stops = [0, 110, 210, 285, 332]
    ramp = [(66, 108, 160), (122, 158, 190), (196, 196, 190), (244, 204, 160), (250, 190, 138)]
    sky = np.stack([np.interp(y, stops, [c[k] for c in ramp]) for k in range(3)], -1).astype(np.float32)
    glow = np.exp(-np.hypot((x - SUN[0]) / 1.5, y - SUN[1]) / 90)[..., None]
    sky += glow * rgb(70, 44, 4)

    depth = 150 / (HORIZON + 110 - y)
    u, v = (x - 380) * depth / 62 + 41.1, depth * 8 + 60.6
    thick, sunward = noise(u, v, 7), noise(u + (SUN[0] - x) / 2400, v + 0.16, 7)
    cover = smoothstep(0.5, 0.66, thick)[..., None] * (0.9 - 0.4 * smoothstep(230, 330, y))[..., None]
    light = np.clip(0.55 + 4.5 * (thick - sunward), 0, 1)[..., None] + 0.5 * glow
    cloud = rgb(158, 150, 172) * (1 - light) + rgb(255, 236, 208) * light
    sky += cover * (cloud - sky)
    image[:] = cv2.resize(sky, (WIDTH * SUPER, HEIGHT * SUPER), interpolation=cv2.INTER_LINEAR)


def draw_far_shore(pen: Pen) -> None:
    """Draw hills in the haze, the mole of rough stones and the lighthouse on it."""
    x = np.linspace(-5, WIDTH + 5, 700)
    for layer, (height, colour) in enumerate([(58, (176, 164, 172)), (40, (142, 144, 158)), (20, (104, 122, 132))]):
        ridge = HORIZON - height * (0.35 + noise(x / (150 - 30 * layer) + 9 * layer, np.full_like(x, layer), 6))
        ridge += 0.12 * height * smoothstep(560, 760, x)
        pen.fill(np.vstack([np.stack([x, ridge], 1), [(WIDTH + 5, HORIZON + 1), (-5, HORIZON + 1)]]), colour)
    pen.fill([(700, 343), (700, 332), (712, 327), (965, 326), (965, 343)], (62, 58, 62))
    for _ in range(420):
        a, y, size = RNG.uniform(699, 965), RNG.uniform(328, 344), RNG.uniform(2, 5)
        y = max(y, 329 + (718 - a) * 0.5)
        shade = RNG.uniform(0.7, 1.25) * (1.1 - (y - 327) / 40)
        turn = np.sort(RNG.uniform(0, 6.28, 7))
        stone = np.stack([a + size * np.cos(turn), y + 0.7 * size * np.sin(turn)], 1)
        pen.fill(stone, tone((88, 82, 84), shade))
        pen.fill(stone * (0.6, 0.5) + (0.4 * a + 0.6, 0.5 * y - 0.8), tone((150, 132, 118), shade))
    draw_lighthouse(pen, 826, 328)


def draw_lighthouse(pen: Pen, x: float, base: float) -> None:
    """Draw a striped tower with gallery and lantern, and the keeper's house."""
    pen.box(x + 16, base - 26, 58, 26, boards((214, 202, 190), 3))
    pen.cover([(x + 12, base - 25), (x + 20, base - 44), (x + 70, base - 44), (x + 78, base - 25)], tiles(BRICK))
    for k in range(3):
        draw_window(pen, x + 24 + 16 * k, base - 19, 8, 10, (250, 214, 130), (96, 70, 62))
    top = base - 190

    def tower(u: Array, v: Array) -> Array:
        stripe = np.floor((v - top) / 27.2) % 2 > 0
        half = 12 + 10 * (v - top) / 190
        round_ = np.clip(0.95 - 0.42 * ((u - x) / half) - 0.3 * ((u - x) / half) ** 2, 0.3, 1.1)
        joints = (np.mod(v, 3.4) < 0.5) | (np.mod(u + np.floor(v / 3.4) % 2 * 3.5, 7) < 0.4)
        base_colour = np.where(stripe[..., None], rgb(244, 236, 224), rgb(190, 52, 44))
        return base_colour * (round_ * np.where(joints, 0.86, 1) * (0.93 + 0.12 * noise(u / 3, v / 6, 2)))[..., None]

    pen.cover([(x - 12, top), (x + 12, top), (x + 22, base), (x - 22, base)], tower)
    for k in range(3):
        pen.box(x - 3 + k, top + 26 + 54 * k, 4, 9, (50, 44, 50))
        pen.line([(x - 4 + k, top + 36 + 54 * k), (x + 2 + k, top + 36 + 54 * k)], (250, 240, 224), 1)
    pen.fill([(x - 12, top), (x + 12, top), (x + 18, top - 5), (x - 18, top - 5)], (72, 62, 66))
    pen.box(x - 8, top - 26, 16, 21, (255, 226, 150))
    pen.oval(x, top - 15, 5, (255, 250, 224))
    iron = (60, 50, 54)
    pen.comb([(x - 8, top - 26), (x - 8, top - 5)], [(x + 8, top - 26), (x + 8, top - 5)], 5, iron, 0.75)
    pen.comb([(x - 8, top - 19), (x + 8, top - 19)], [(x - 8, top - 12), (x + 8, top - 12)], 2, iron)
    dome = [(x - 10, top - 26), (x - 7, top - 32), (x, top - 36), (x + 7, top - 32), (x + 10, top - 26)]
    pen.fill(dome, (168, 48, 42))
    pen.line([(x, top - 34), (x, top - 46)], iron)
    pen.comb([(x - 18, top - 5), (x - 18, top - 13)], [(x + 18, top - 5), (x + 18, top - 13)], 13, iron)
    pen.comb([(x - 18, top - 9), (x + 18, top - 9)], [(x - 18, top - 13), (x + 18, top - 13)], 2, iron)


def draw_window(pen: Pen, x: float, y: float, width: float, height: float, glass: Colour, frame: Colour) -> None:
    """Draw a window with sill, bars, a curtain and the shadow of its recess."""
    pen.box(x - 1.2, y - 1.2, width + 2.4, height + 2.4, frame)
    pen.box(x, y, width, height, tone(glass, 0.72))
    pen.fill([(x, y + 0.25 * height), (x + width, y), (x + width, y + height), (x, y + height)], glass)
    pen.box(x, y, width, 1, tone(glass, 0.45))
    if glass[0] > 200:
        pen.fill([(x, y), (x + 0.36 * width, y), (x, y + 0.8 * height)], tone(glass, 0.84))
        pen.fill([(x + width, y), (x + 0.64 * width, y), (x + width, y + 0.8 * height)], tone(glass, 0.84))
    pen.line([(x + width / 2, y), (x + width / 2, y + height)], frame, 0.75)
    for part in (0.34, 0.67):
        pen.line([(x, y + part * height), (x + width, y + part * height)], frame, 0.75)
    pen.box(x - 2, y + height + 1, width + 4, 1.4, tone(frame, 0.8))


def draw_house(pen: Pen, x: float, width: float, eaves: float, roof: float, wall: Pattern, trim: Colour) -> None:
    """Draw a house on the quay: `eaves` and `roof` are heights, a negative `roof` makes a gable to the front."""
    top, floors = QUAY - eaves, max(2, round(eaves / 34))
    red = tiles((RNG.uniform(150, 182), RNG.uniform(72, 92), RNG.uniform(54, 66)))
    for stack in (0.18, 0.74):
        pen.box(x + stack * width, top - abs(roof) - 7, 9, abs(roof), masonry(BRICK, MORTAR, 4, 2.2))
        pen.box(x + stack * width - 1, top - abs(roof) - 9, 11, 2.5, (92, 70, 66))
    pen.cover([(x, top), (x + width, top), (x + width, QUAY), (x, QUAY)], wall, (0.9, 0.84, 0.84))
    if roof < 0:
        peak = (x + width / 2, top + roof)
        pen.cover([(x, top + 1), peak, (x + width, top + 1)], wall)
        verge = np.array([(x - 3, top + 2), peak, (x + width + 3, top + 2)])
        pen.line(verge, (96, 56, 48), 3.2)
        pen.line(verge - (0, 2.4), (214, 130, 96), 1.2)
        pen.oval(peak[0], top - 0.32 * abs(roof), 5.5, trim)
        pen.oval(peak[0], top - 0.32 * abs(roof), 4, (78, 92, 108))
    else:
        slope = [(x - 3, top), (x + 5, top - roof), (x + width - 5, top - roof), (x + width + 3, top)]
        pen.cover(slope, red, (0.88, 0.84, 0.84))
        pen.line(slope[1:3], (104, 62, 54), 1.5)
        pen.box(x - 3, top - 1, width + 6, 2, trim)
        pen.box(x, top + 1, width, 4, tone((112, 84, 84), 0.8))
        middle = x + width / 2
        pen.box(middle - 9, top - 0.72 * roof, 18, 0.62 * roof, tone(trim, 0.86))
        draw_window(pen, middle - 5, top - 0.66 * roof, 10, 0.42 * roof, (108, 134, 156), (240, 230, 214))
        pen.cover([(middle - 12, top - 0.7 * roof), (middle, top - roof - 1), (middle + 12, top - 0.7 * roof)], red)
    count = max(2, round(width / 21))
    pitch, storey = width / count, (eaves - 4) / floors
    shutters = tone(trim, 0.5) if trim[0] > 180 else trim
    for floor in range(floors - 1):
        for k in range(count):
            a, b = x + (k + 0.5) * pitch - 4.4, top + floor * storey + 0.3 * storey
            glass = (252, 208, 120) if RNG.random() < 0.32 else (92, 118, 144)
            for side in (a - 5.4, a + 9.8):
                pen.box(side, b - 1, 4.4, 0.5 * storey + 2, boards(shutters, 1.6))
            draw_window(pen, a, b, 8.8, 0.5 * storey, glass, (238, 230, 216))
    draw_shop(pen, x, width, trim)
    pen.box(x + width - 0.8, top, 1.6, eaves, (74, 66, 70))


def draw_shop(pen: Pen, x: float, width: float, trim: Colour) -> None:
    """Draw the ground floor: a door, a lit shop window and an awning in stripes."""
    draw_window(pen, x + 5, QUAY - 21, 0.5 * width - 6, 15, (255, 214, 128), (84, 64, 56))
    pen.box(x + 0.68 * width, QUAY - 25, 13, 25, boards(tone(trim, 0.55), 3, upright=True))
    pen.box(x + 0.68 * width + 2, QUAY - 23, 9, 6, (240, 196, 116))
    stripes, left = max(6, int(width / 8)), x + 2
    step = (0.5 * width + 2) / stripes
    for k in range(stripes):
        colour = (246, 236, 220) if k % 2 else tone(trim, 0.85)
        a = left + k * step
        pen.fill([(a + 1, QUAY - 29), (a + step + 1, QUAY - 29), (a + step, QUAY - 21), (a, QUAY - 21)], colour)
        pen.oval(a + step / 2, QUAY - 21, step / 2, tone(colour, 0.85), 0.7)


def draw_town(pen: Pen) -> None:
    """Draw the row of houses, and the quay before it with lamps, people and bollards."""
    for x, width, eaves, roof, wall, trim in (
        (-14, 82, 122, 36, plaster((222, 178, 112)), (236, 222, 196)),
        (68, 66, 150, -44, masonry(BRICK, MORTAR, 6.4, 3.2), CREAM),
        (134, 88, 104, 38, boards((112, 146, 160), 3.6), CREAM),
        (222, 70, 138, -50, plaster((206, 116, 92)), (70, 106, 96)),
        (292, 92, 116, 34, masonry((186, 152, 118), MORTAR, 9, 4.6), (128, 54, 50)),
        (384, 64, 142, -42, boards((228, 214, 184), 4.2), (60, 92, 124)),
        (448, 84, 100, 36, masonry(BRICK, MORTAR, 6.4, 3.2), CREAM),
        (532, 79, 84, -40, boards((160, 62, 54), 4, upright=True), CREAM),
    ):
        draw_house(pen, x, width, eaves, roof, wall, trim)
    side = [(-5, QUAY - 3), (QUAY_END, QUAY - 3), (QUAY_END, QUAY_WATER), (-5, QUAY_WATER)]
    pen.cover(side, masonry((150, 136, 126), (92, 84, 82), 15, 7.2, 0.8), (0.66, 0.68, 0.66))
    pen.box(-5, QUAY - 3, QUAY_END + 7, 4, (206, 188, 168))
    pen.box(-5, QUAY_WATER - 5, QUAY_END + 5, 5, boards((62, 74, 56), 3, upright=True))
    for x in range(20, QUAY_END, 41):
        pen.box(x, QUAY - 7, 5, 5, (54, 48, 52))
        pen.oval(x + 2.5, QUAY - 7, 3.6, (70, 62, 66), 0.5)
        a, b, dark = x + 20, x + 23.5, (58, 52, 52)
        pen.comb([(a, QUAY - 1), (a, QUAY_WATER)], [(b, QUAY - 1), (b, QUAY_WATER)], 2, dark, 0.75)
        pen.comb([(a, QUAY + 2), (b, QUAY + 2)], [(a, QUAY + 30), (b, QUAY + 30)], 8, dark)
    for x in (58, 212, 366, 520, 600):
        pen.line([(x, QUAY - 2), (x, QUAY - 50)], (44, 40, 46), 1.2)
        pen.line([(x - 5, QUAY - 46), (x, QUAY - 50), (x + 5, QUAY - 46)], (44, 40, 46), 0.75)
        for a in (x - 5, x + 5):
            pen.oval(a, QUAY - 43, 2.8, (255, 238, 186))
            pen.fill([(a - 3.2, QUAY - 45), (a, QUAY - 49), (a + 3.2, QUAY - 45)], (44, 40, 46))


def draw_sailboat(pen: Pen, x: float, water: float, length: float, hull: Colour) -> None:
    """Draw a yacht at anchor: hull, cabin, mast with stays, furled sail on the boom."""
    deck, mast, top = water - 0.11 * length, x + 0.04 * length, water - 1.42 * length
    bow, stern, boom = x + length / 2, x - length / 2, water - 0.28 * length
    wire, wood = (62, 56, 60), (214, 176, 124)
    sheer = [(stern, deck), (x, deck + 2), (bow, deck - 0.05 * length)]
    shape = [*sheer, (bow - 0.12 * length, water + 1), (stern + 0.05 * length, water + 1)]
    pen.cover(shape, boards(hull, 2.6), (0.68, 0.68, 0.72))
    pen.line(sheer, (250, 240, 222), 1.25)
    pen.line([(stern + 0.04 * length, water - 2), (bow - 0.1 * length, water - 2)], (180, 52, 44), 1.5)
    cabin = [(-0.28, 0.01), (-0.25, -0.075), (0.14, -0.065), (0.2, 0.01)]
    pen.fill([(x + a * length, deck + b * length) for a, b in cabin], (242, 234, 220))
    for k in range(4):
        pen.oval(x + (-0.19 + 0.09 * k) * length, deck - 0.028 * length, 0.024 * length, (52, 66, 84), 0.6)
    pen.line([(mast, deck), (mast, top)], wood, 1.75)
    pen.line([(mast + 0.6, deck), (mast + 0.6, top)], (132, 98, 72), 0.5)
    for height in (0.38, 0.68):
        y = deck + height * (top - deck)
        pen.line([(mast - 0.07 * length, y), (mast + 0.07 * length, y)], wood, 1)
    for end in (stern + 2, bow - 1, bow - 0.16 * length):
        pen.line([(end, deck - 2), (mast, top if end < bow - 3 else top + 4)], wire, 0.5)
    for spread in (-0.07, 0.07):
        upper, lower = deck + 0.68 * (top - deck), deck + 0.38 * (top - deck)
        middle = mast + spread * length
        pen.line([(mast, top), (middle, upper), (middle, lower), (middle * 1.5 - mast / 2, deck)], wire, 0.5)
        pen.line([(mast, upper), (middle, lower), (middle, deck)], wire, 0.5)
    end = stern + 0.05 * length
    sail = [(mast, boom), (mast, boom - 0.075 * length), (mast - 0.1 * length, boom - 0.045 * length), (end, boom - 2)]
    pen.cover([*sail, (end, boom)], boards((238, 226, 204), 1.7), (0.8, 0.76, 0.76))
    for k in range(7):
        a = mast - (0.06 + 0.065 * k) * length
        pen.line([(a, boom + 1), (a + 1, boom - (0.055 - 0.005 * k) * length)], (64, 84, 122), 0.75)
    pen.line([(mast, boom + 1), (end, boom)], wood, 1.5)
    rail = deck - 0.075 * length
    pen.comb([(stern + 2, deck), (stern + 2, rail)], [(bow - 2, deck - 3), (bow - 2, rail - 3)], 11, (224, 224, 224))
    pen.line([(stern + 2, rail), (bow - 2, rail - 3)], (224, 224, 224), 0.5)
    pen.fill([(mast, top), (mast + 0.11 * length, top + 3), (mast, top + 0.055 * length)], (206, 58, 46))


def draw_trawler(pen: Pen, x: float, water: float) -> None:
    """Draw a fishing boat with wheelhouse, gallows, ladder, floats and a net hung up to dry."""
    shape = [(-72, -22), (-30, -17), (30, -18), (78, -36), (62, 1), (-64, 1)]
    placed = [(x + a, water + b) for a, b in shape]
    pen.cover(placed, boards((44, 96, 118), 3.4), (0.6, 0.6, 0.64))
    pen.line(placed[:4], (244, 232, 208), 2)
    pen.line([(x - 66, water - 3), (x + 66, water - 3)], (178, 56, 44), 2.5)
    pen.text("OVER", x + 38, water - 20, 6, (250, 240, 222), 0.75)
    pen.box(x - 6, water - 52, 38, 34, boards((240, 230, 210), 3, upright=True))
    pen.box(x - 9, water - 55, 44, 4, (184, 66, 50))
    for k in range(3):
        draw_window(pen, x - 2 + 11 * k, water - 48, 9, 10, (250, 212, 132) if k == 1 else (82, 104, 126), (92, 62, 50))
    for a, height in ((12, 122), (-60, 92)):
        pen.line([(x + a, water - 18), (x + a, water - height)], (190, 140, 88), 2)
    for a, b, c, d in ((12, 122, 77, 36), (12, 122, -60, 92), (-60, 92, -72, 22), (12, 96, -48, 50), (12, 110, 56, 30)):
        pen.line([(x + a, water - b), (x + c, water - d)], (58, 50, 52), 0.5)
    left, right = x + 9, x + 15
    pen.comb([(left, water - 24), (right, water - 24)], [(left, water - 114), (right, water - 114)], 16, (120, 84, 60))
    corners = [(x - 64, water - 20), (x - 59, water - 84), (x - 4, water - 46), (x - 6, water - 20)]
    pen.comb([corners[0], corners[1]], [corners[3], corners[2]], 19, (66, 122, 104))
    pen.comb([corners[0], corners[3]], [corners[1], corners[2]], 17, (66, 122, 104))
    for k in range(9):
        pen.oval(x - 62 + 7 * k, water - 19 - (k % 2), 3.2, (236, 132, 52) if k % 2 else (244, 214, 92))
    for k in range(11):
        flag = np.add([(12, -122), (17, -116), (12.5, -113)], (x + 6 * k, water + 8 * k))
        pen.fill(flag, [(214, 64, 52), (244, 200, 76), (60, 110, 150)][k % 3])


def draw_boats(image: Array, *, mirrored: bool) -> None:
    """Draw all boats, from far to near, or their mirror images in still water."""
    for x, water, length, hull in (
        (668, 356, 34, (70, 84, 104)),
        (92, 436, 118, (150, 48, 44)),
        (590, 470, 214, (40, 60, 92)),
    ):
        draw_sailboat(Pen(image, water if mirrored else None), x, water, length, hull)
    draw_trawler(Pen(image, 452 if mirrored else None), 330, 452)


def draw_water(image: Array) -> None:
    """Draw the reflection of everything above the water, distorted by waves in perspective."""
    width, height = image.shape[1], image.shape[0]
    columns = np.arange(width, dtype=np.float32) / SUPER
    shore = np.where(columns < QUAY_END, QUAY_WATER, np.where(columns > 700, MOLE_WATER, HORIZON)).astype(np.float32)
    rows = np.arange(HORIZON * SUPER, height, dtype=np.float32)[:, None]
    # Away from the quay the line to mirror at runs smoothly from the horizon to the mole, or the hills would break.
    ramp = HORIZON + (MOLE_WATER - HORIZON) * smoothstep(630, 705, columns)
    line = np.where(columns < QUAY_END, shore, ramp).astype(np.float32)
    flat = np.abs(2 * line * SUPER - rows - 1)
    flat = np.where((columns > QUAY_END) & (columns < 700), np.minimum(flat, HORIZON * SUPER - 1), flat)
    wet = rows >= shore * SUPER
    x_map = np.broadcast_to(columns * SUPER, flat.shape)
    mirror = image.copy()
    below = cv2.remap(image, np.ascontiguousarray(x_map), flat, cv2.INTER_LINEAR)
    np.copyto(mirror[HORIZON * SUPER :], below, where=wet[..., None])
    draw_boats(mirror, mirrored=True)

    # Waves are a sum of sines on the plane of the sea, seen from 8 m above it; half the resolution is enough.
    y, x = np.mgrid[HORIZON * 2 : HEIGHT * 2, 0 : WIDTH * 2].astype(np.float32) / 2
    down = y - HORIZON + 1
    across, away = (x - 480) * 8 / down, 7200 / down
    slope_x, slope_y = np.zeros_like(x), np.zeros_like(x)
    for _ in range(44):
        number, angle, phase = 2 * np.pi / RNG.uniform(0.22, 1.5) ** 1.6, RNG.normal(0.25, 0.75), RNG.uniform(0, 6.28)
        kx, ky = number * np.sin(angle), number * np.cos(angle)
        # A wave too short for the pixels it falls on would only alias.
        wave = np.cos(kx * across + ky * away + phase) * np.exp(-((ky * 1800 / down**2) ** 2) / 6)
        slope_x += 0.011 * np.sin(angle) * wave
        slope_y += 0.011 * np.cos(angle) * wave
    size = (width, height - HORIZON * SUPER)
    patches = 0.55 + 0.8 * noise(across / 9, away / 22, 3)
    slope_x, slope_y = (cv2.resize(s * patches, size, interpolation=cv2.INTER_LINEAR) for s in (slope_x, slope_y))

    calm = np.clip((rows / SUPER - shore) / 90, 0.04, 1) ** 0.8
    y_map = rows + slope_y * calm * 640 * SUPER
    y_map = np.clip(y_map, shore * SUPER + 1, height - 2).astype(np.float32)
    x_map = np.abs(x_map + slope_x * calm * 260 * SUPER)
    x_map = np.minimum(x_map, 2 * (width - 1) - x_map).astype(np.float32)
    seen = cv2.remap(mirror, x_map, y_map, cv2.INTER_LINEAR)
    fresnel = np.clip(0.7 + 5.5 * slope_y - 0.12 * (rows / SUPER - HORIZON) / 300, 0.22, 0.95)[..., None]
    sea = seen * fresnel + rgb(26, 62, 78) * (1 - fresnel)
    path = np.exp(-(((columns - SUN[0]) / 70) ** 2)) * smoothstep(0.02, 0.055, slope_y + 0.3 * slope_x)
    sea += path[..., None] * rgb(120, 90, 48)
    np.copyto(image[HORIZON * SUPER :], sea, where=wet[..., None])


def draw_rope(pen: Pen, start: tuple[float, float], end: tuple[float, float], sag: float) -> None:
    """Draw a hanging, twisted rope."""
    t = np.linspace(0, 1, 60)
    x = start[0] + (end[0] - start[0]) * t
    y = start[1] + (end[1] - start[1]) * t + 4 * sag * t * (1 - t)
    pen.line(np.stack([x, y], 1), (92, 70, 52), 2.5)
    for a, b in zip(x, y, strict=True):
        pen.line([(a - 0.9, b + 0.9), (a + 0.9, b - 0.9)], (222, 190, 140), 0.75)


def draw_pier(pen: Pen) -> None:
    """Draw the near pier with posts and ropes, the sign and a lobster pot."""
    wood, dark = (170, 138, 108), (66, 52, 46)
    pen.fill([(606, 640), (632, 606), (965, 600), (965, 645)], dark)
    pen.cover([(616, 640), (638, 601), (965, 594), (965, 645)], boards(wood, 90), (0.86, 0.8, 0.78))
    pen.comb([(640, 601), (618, 641)], [(962, 594), (1030, 641)], 34, dark, 0.75)
    for x in (702, 866):
        pen.cover([(x, 482), (x + 7, 482), (x + 7, 600), (x, 600)], boards((134, 104, 82), 2.4, upright=True))
    pen.box(684, 490, 208, 56, (60, 44, 40))
    pen.box(687, 493, 202, 50, boards((238, 224, 192), 8.4))
    pen.text("OVERNET", 723, 498, 20, (36, 60, 96), 2.25)
    pen.text("HARBOUR", 764, 525, 13, (160, 52, 44), 1.25)
    for k in range(3):
        pen.line([(724, 527 + 4.5 * k), (756, 527 + 4.5 * k)], (36, 60, 96), 1)
    posts = [(642, 606), (750, 604), (838, 602), (940, 600)]
    for x, y in posts:
        pen.cover([(x - 5, y - 46), (x + 5, y - 46), (x + 5, y + 5), (x - 5, y + 5)], boards(wood, 2.2, upright=True))
        pen.oval(x, y - 46, 5, (212, 180, 142), 0.4)
        pen.comb([(x - 5.5, y - 36), (x + 5.5, y - 34)], [(x - 5.5, y - 28), (x + 5.5, y - 26)], 5, (226, 196, 148), 1)
    for (a, b), (c, d) in zip(posts, [*posts[1:], (1040, 598)], strict=True):
        draw_rope(pen, (a, b - 32), (c, d - 32), 10)
        draw_rope(pen, (a, b - 14), (c, d - 14), 9)
    pen.box(884, 596, 60, 34, (56, 48, 44))
    for lean in (-12, 12):
        pen.comb([(884, 630), (884 + lean, 596)], [(944, 630), (944 + lean, 596)], 16, (206, 170, 112))
    for y in (595, 612, 629):
        pen.line([(881, y), (947, y)], (196, 158, 112), 2.5)


def draw_garden(pen: Pen) -> None:
    """Draw the near shore at the left: a bush in leaf and flower behind a picket fence."""
    for k in range(2600):
        # Leaves further back come first and darker; the bush is as high as the noise says.
        depth = k / 2600
        x = RNG.uniform(-8, 236)
        crown = (1 - smoothstep(70, 240, np.float32(x))) * (64 + 110 * noise(np.float32(x / 34), np.float32(2.5), 3))
        y = 644 - crown * RNG.uniform(0, 1) ** 0.7 * (1.15 - 0.25 * depth)
        leaf = (78 + 66 * RNG.random(), 108 + 46 * RNG.random(), 44 + 20 * RNG.random())
        turn = RNG.normal(-0.7, 0.8)
        pen.oval(x, y, RNG.uniform(3, 6.4), tone(leaf, 0.3 + 0.8 * depth**1.5), 0.42, turn)
        pen.line([(x - 3 * np.cos(turn), y - 3 * np.sin(turn)), (x, y)], tone(leaf, 0.5 + 0.9 * depth), 0.5)
        if k % 40 == 39:
            for petal in np.arange(5) * 1.257:
                pen.oval(x + 2.1 * np.cos(petal), y + 2.1 * np.sin(petal), 1.7, (238, 190, 200), 0.75, petal)
            pen.oval(x, y, 1.2, (250, 214, 96))
    white = (240, 232, 218)
    for y in (607, 628):
        pen.box(-5, y, 262, 4.5, tone(white, 0.76))
    for x in np.arange(-4, 256, 13.0):
        pen.cover([(x, 645), (x, 599), (x + 4, 592), (x + 8, 599), (x + 8, 645)], boards(white, 8.7, upright=True))
        pen.line([(x + 8, 599), (x + 8, 645)], (128, 112, 112), 0.75)


def draw_gulls(pen: Pen) -> None:
    """Draw gulls over the water."""
    for x, y, span in ((640, 132, 11), (672, 118, 8), (700, 150, 9), (742, 96, 7), (566, 98, 6), (900, 210, 8)):
        for side in (-1, 1):
            wing = [(x, y), (x + side * 0.45 * span, y - 0.42 * span), (x + side * span, y - 0.12 * span)]
            pen.line(wing, (250, 244, 236), 1.25)
            pen.line(wing[1:], (84, 84, 96), 0.75)


def finish(image: Array) -> Array:
    """Reduce to the large image, with a little bloom, darker corners and the faint grain of a film."""
    reduced = cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    bloom = cv2.GaussianBlur(np.maximum(reduced - 190, 0), (0, 0), 7)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    reduced = (reduced + 0.3 * bloom) * (1.02 - 0.09 * (x**2 + y**2))[..., None]
    grained: Array = np.round(reduced + RNG.normal(0, 0.8, (HEIGHT, WIDTH, 1)))
    return grained.clip(0, 255).astype(np.uint8)


def main() -> None:
    """Draw, reduce and write the two images."""
    image = np.zeros((HEIGHT * SUPER, WIDTH * SUPER, 3), np.float32)
    pen = Pen(image)
    draw_sky(image)
    draw_far_shore(pen)
    draw_town(pen)
    draw_water(image)
    draw_boats(image, mirrored=False)
    draw_gulls(pen)
    draw_pier(pen)
    draw_garden(pen)
    large = finish(image)
    folder = Path(__file__).parent
    for name, image in (("harbour_large.png", large), ("harbour.png", imresize(large, scale=1 / 4))):
        cv2.imwrite(str(folder / name), image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
