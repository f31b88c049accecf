"""Draw `tail.svg`: the network's tail as it is defined, and the exact form that files and engines have.

The height of a bar is the number of values an input pixel that its tensor holds, for the bundled model at x2.

    python docs/tail_figure.py
"""

from pathlib import Path

OVERSCALE, SCALE, WIDTH = 5, 2, 64
PIXELS_A_VALUE = 0.1
STEP, LEFT, BAR = 160, 62, 26

# For each bar: its values an input pixel, what it is (two lines), and the step that leads to it (two lines).
Bar = tuple[int, tuple[str, str], tuple[str, str]]
OVERSCALED = WIDTH * OVERSCALE**2
DEFINED: list[Bar] = [
    (WIDTH, ("features", "64, H x W"), ("", "")),
    (OVERSCALED, ("overscaled", "1600, H x W"), ("convolution 3x3", "ReLU")),
    (OVERSCALED, ("shuffled", "64, 5H x 5W"), ("pixel shuffle", "")),
    (WIDTH * SCALE**2, ("resized", "64, 2H x 2W"), ("bicubic", "5 to 2")),
    (3 * SCALE**2, ("image", "3, 2H x 2W"), ("convolution 3x3", "plus bicubic image")),
]
EXACT: list[Bar] = [
    (WIDTH, ("features", "64, H x W"), ("", "")),
    (WIDTH, ("one phase of 25", "64, H x W"), ("convolution 3x3", "ReLU")),
    (27 * OVERSCALE, ("5 rows of a column", "5 x 27, H x W"), ("mix: 3 colours", "x 3x3 taps")),
    (9 * SCALE * OVERSCALE, ("5 columns", "5 x 18, H x W"), ("rows of resize and", "convolution: 5 to 2")),
    (3 * SCALE**2, ("image", "12, H x W = 3, 2H x 2W"), ("columns: 5 to 2", "plus bicubic image")),
]


def lane(title: str, bars: list[Bar], top: float, half: float) -> list[str]:
    """Return the SVG elements of one row of bars, from the height `top` on, with bars of up to twice `half`."""
    middle = top + 22 + half
    parts = [f'<text class="title" x="16" y="{top:g}">{title}</text>']
    for index, (values, names, step) in enumerate(bars):
        x, height = LEFT + index * STEP, max(values * PIXELS_A_VALUE, 1)
        parts.append(f'<rect x="{x - BAR / 2:g}" y="{middle - height / 2:g}" width="{BAR}" height="{height:g}"/>')
        parts.append(f'<text class="value" x="{x + BAR / 2 + 5:g}" y="{middle - 9:g}">{values}</text>')
        for line, name in enumerate(names):
            parts.append(f'<text x="{x}" y="{middle + half + 20 + 15 * line:g}" text-anchor="middle">{name}</text>')
        if index:
            begin, end = x - STEP + BAR / 2 + 5, x - BAR / 2 - 5
            parts.append(f'<path d="M{begin:g} {middle:g}H{end:g}" marker-end="url(#head)"/>')
            for line, text in enumerate(step):
                place = f'x="{(begin + end) / 2:g}" y="{middle + 16 + 13 * line:g}"'
                parts.append(f'<text class="step" {place} text-anchor="middle">{text}</text>')
    return parts


def figure() -> str:
    """Return the figure as SVG."""
    width, height = LEFT * 2 + STEP * (len(DEFINED) - 1) + 16, 410
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"'
            ' aria-labelledby="name">',
            '<title id="name">The tail as it is defined, and the exact form without overscaled tensors</title>',
            "<style>text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:15px;font-weight:600}"
            ".step{font-size:11px;fill:#555}.value{font-size:11px;fill:#3949ab}rect{fill:#3949ab}"
            "path{stroke:#777;fill:none}.ground{fill:#fff}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
            ' orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#777;stroke:none"/></marker></defs>',
            f'<rect class="ground" width="{width}" height="{height}" rx="8"/>',
            *lane("As defined: on the overscaled grid", DEFINED, 28, 82),
            *lane("Exact form: on the grid of the input, phase by phase", EXACT, 280, 36),
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (Path(__file__).parent / "tail.svg").write_text(figure())
