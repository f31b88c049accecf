"""The before/after slider of a report as HTML."""

import base64
import binascii
import html

from overnet.benchmarks.report.contents import quality_words
from overnet.benchmarks.report.table import figure, size_text
from overnet.benchmarks.results import BenchmarkRun, SampleImages
from overnet.errors import printable

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_LARGEST_SHOWN_SIDE = 1 << 14


def png_size(image: str) -> tuple[int, int] | None:
    """Read the size of a PNG file in base64 from its header.

    Args:
        image: base64 text from an untrusted file.

    Returns:
        Width and height in pixels; None if it is no PNG file.
    """
    try:
        content = base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not content.startswith(_PNG_START) or len(content) < len(_PNG_START) + 8:
        return None
    at = len(_PNG_START)
    width, height = (int.from_bytes(content[start : start + 4], "big") for start in (at, at + 4))
    return (width, height) if 0 < width <= _LARGEST_SHOWN_SIDE and 0 < height <= _LARGEST_SHOWN_SIDE else None


def escaped(text: str) -> str:
    """Return text from an untrusted file so that HTML shows it literally."""
    return html.escape(printable(text))


def slider(samples: SampleImages, run: BenchmarkRun) -> str:
    """Return the slider for one image, or a sentence why there is none.

    Args:
        samples: those that are no PNG, or have another size than the first, are left out and named.
        run: its figures are shown beside each method's name.
    """
    offered = [("bicubic interpolation", samples.before), *samples.after.items()]
    if samples.ground_truth is not None:
        offered.append(("the ground truth", samples.ground_truth))
    sizes = [png_size(image) for _, image in offered]
    size = next((each for each in sizes if each is not None), None)
    shown = [each for each, found in zip(offered, sizes, strict=True) if found is not None and found == size]
    left_out = [name for (name, _), found in zip(offered, sizes, strict=True) if found is None or found != size]
    heading = f"<h3>{escaped(samples.name)}, x{samples.scale}</h3>"
    complaint = ""
    if left_out:
        names = escaped(", ".join(left_out))
        complaint = f'<p class="muted">Left out because they are no PNG image of the same size: {names}.</p>'
    if size is None or len(shown) < 2:
        return f'<div>{heading}{complaint}<p class="muted">There are fewer than two images to compare.</p></div>'
    images = "".join(
        f'<img src="data:image/png;base64,{html.escape(image)}" alt="{escaped(name)}" draggable="false">'
        for name, image in shown
    )
    names_and_figures = [(name, name + _figures(name, samples.scale, run)) for name, _ in shown]
    choices = _choice("left", "Left", names_and_figures, 0) + _choice("right", "Right", names_and_figures, 1)
    width, height = size
    return (
        f'<div class="slider">{heading}<div class="choices">{choices}</div>'
        f'<div class="stage" data-width="{width}" data-height="{height}" style="aspect-ratio: {width} / {height}">'
        f'{images}<span class="side left"></span><span class="side right"></span><span class="edge"></span></div>'
        f'<input type="range" min="0" max="100" step="0.1" value="50">{complaint}</div>'
    )


def _choice(side: str, label: str, offered: list[tuple[str, str]], chosen: int) -> str:
    options = "".join(
        f'<option value="{index}" data-name="{escaped(name)}"{" selected" if index == chosen else ""}>'
        f"{escaped(words)}</option>"
        for index, (name, words) in enumerate(offered)
    )
    # With autocomplete, a browser might restore another choice than the images show when the page is reloaded.
    return f'<label>{label} <select name="{side}" autocomplete="off">{options}</select></label>'


def _figures(name: str, scale: int, run: BenchmarkRun) -> str:
    """Return the quality and the latency of a method at a scale and its largest size, to follow its name."""
    found = [each for each in run.results if (each.case.name, each.case.scale) == (name, scale) and each.speed_is_shown]
    if not found:
        return ""
    largest = max(found, key=lambda result: result.case.pixels)
    milliseconds = figure(largest.latency.host.p50_ms if largest.latency else None)
    size = size_text(largest.case.width, largest.case.height)
    return f" ({quality_words(largest.quality)}; {milliseconds} ms at {size})"
