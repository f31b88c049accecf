"""An upscaler that chooses the best bundled model that holds a rate of frames here, by a short measurement."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from overnet.runtime.backends.stream import Ticket, UpscaleStream
from overnet.runtime.models import find_models
from overnet.runtime.upscaler import Upscaler
from overnet.runtime.video.encoding_speed import encoding_seconds
from overnet.system.environment import has_fast_int8
from overnet.weights import INT8_MODEL_NAMES, MODEL_NAMES

# Of the frames a second that upscaling and encoding allow, the share that remains beside decoding and conversions.
_SHARE = 0.9
# How long whole frames are upscaled to measure one model, and how long one of them may take.
_SECONDS, _LONGEST_FRAME_SECONDS = 0.5, 0.5
# Height and width, in pixels, of the part of a frame that is measured first, and how many times too slow the model must
# be on it for whole frames not to be measured: small images cost more for each pixel.
_PART_SIDE, _TOO_SLOW = 128, 2.0
# Of sources that state no rate.
_USUAL_RATE = Fraction(30)


@dataclass(frozen=True)
class _Choice:
    """A bundled model, and the precision to compute it in; None for the backend's own."""

    name: str
    precision: str | None

    def __str__(self) -> str:
        return f"{self.name} in INT8" if self.precision == "int8" else self.name


class PacedUpscaler(Upscaler):
    """An `Upscaler` whose streams choose the model: the best bundled one that holds the rate at the frames' size.

    On a CPU that is fast in INT8, the models in INT8 are among them, unless a precision is given. The measurement takes
    about two seconds: the largest model is measured first, and the first that holds the rate is taken. On the CPU a
    part of a frame comes first, and models that are far too slow on it are not measured further.

    Args:
        scale: see `Upscaler`, which also has the other options.
        rate: frames a second to hold; None for the rate that `stream` is given.
        on_choice: called with one line that states the choice and what was measured.
        backend: see `Upscaler`.
    """

    def __init__(
        self,
        scale: float = 2,
        *,
        rate: Fraction | None,
        on_choice: Callable[[str], None],
        backend: str = "auto",
        **options: Any,
    ) -> None:
        self._rate, self._on_choice, self._backend = rate, on_choice, backend
        self._encoding_seconds = 0.0
        self._model = _Choice(MODEL_NAMES[0], options.get("precision"))
        self._chosen: dict[tuple[int, int, Fraction], _Choice] = {}
        super().__init__(scale, model=self._model.name, backend=backend, **options)
        names = INT8_MODEL_NAMES if self._options.precision == "int8" else MODEL_NAMES
        self._candidates = [_Choice(name, self._options.precision) for name in names]
        if self._choices[0][0].name == "openvino" and self._options.precision is None and has_fast_int8():
            # The others in FP32 are slower than the next better one in INT8.
            self._candidates = [*(_Choice(name, "int8") for name in INT8_MODEL_NAMES), *self._candidates[1:]]

    def stream(
        self, height: int, width: int, *, even_width: bool = False, rate: Fraction | None = None
    ) -> UpscaleStream:
        """Choose the model, say so, and open a stream; see `Upscaler.stream`."""
        wanted = self._rate or rate or _USUAL_RATE
        known = self._chosen.get((height, width, wanted))
        if known is not None:
            self._use(known)
            return super().stream(height, width, even_width=even_width)
        size = self.output_size(height, width, even_width=even_width)
        slower, held, stream = "", 0.0, None
        self._encoding_seconds = encoding_seconds(size[1], size[0])
        for model in reversed(self._candidates):
            self._use(model)
            notes = list(self._notes)
            on_part = self._held_on_a_part(height, width, size, wanted)
            stream = None if on_part else super().stream(height, width, even_width=even_width)
            held = on_part or 0.0
            if stream is not None:
                held = self._held(1 / self._frames_per_second(stream, height, width))
            text = f"{held:.2g}" if held < 10 else f"{held:.0f}"
            if held >= wanted or model == self._candidates[0]:
                break
            if stream is not None:
                stream.close()
            self._notes = notes
            slower += f", {model} holds {text}"
        self._chosen[height, width, wanted] = model
        place = f"here at {width}x{height} x{size[0] / height:g}"
        if held >= wanted:
            self._on_choice(f"model {model}: {text} frames/s {place}{slower}")
        else:
            self._on_choice(f"no bundled model holds {float(wanted):g} frames/s {place}: model {model} holds {text}")
        return super().stream(height, width, even_width=even_width) if stream is None else stream

    def _use(self, model: _Choice) -> None:
        """Make a bundled model the one to load."""
        if model != self._model:
            self.close()
            self._model, self._largest_tile = model, None
            self._options = replace(self._options, precision=model.precision)
            self._choices = find_models(model.name, self._backend, model.precision)

    def _held(self, seconds: float) -> float:
        """Return the frames a second that are held where the model alone takes some seconds for one.

        On the CPU the encoder works on the same cores; beside a GPU the slower of the two counts.
        """
        on_gpu = self._choices[0][0].on_gpu
        return _SHARE / (max if on_gpu else sum)((seconds, self._encoding_seconds))

    def _held_on_a_part(self, height: int, width: int, size: tuple[int, int], wanted: Fraction) -> float | None:
        """Return the frames a second that the model holds, scaled by area from a part; None to measure whole frames.

        Whole frames are measured where they do not take long and the model may be fast enough, and on a GPU.
        """
        backend = self._prepared(height, width, size)
        rows, columns = min(height, _PART_SIDE), min(width, _PART_SIDE)
        if self._choices[0][0].on_gpu or (rows, columns) == (height, width):
            return None
        part = np.zeros((1, rows, columns, 3), np.uint8)
        backend.upscale(part)
        began = time.perf_counter()
        backend.upscale(part)
        seconds = (time.perf_counter() - began) * (height * width) / (rows * columns)
        held = self._held(seconds)
        return held if seconds > _LONGEST_FRAME_SECONDS or held * _TOO_SLOW < wanted else None

    def _frames_per_second(self, stream: UpscaleStream, height: int, width: int) -> float:
        """Measure a stream, with as many frames in flight as it has slots, after a first frame that sets it up."""
        frame = np.zeros((height, width, 3), np.uint8)

        def submit() -> Ticket:
            buffer = stream.buffer()
            return stream.submit(frame if buffer is None else buffer)

        with submit():
            pass
        in_flight: deque[Ticket] = deque()
        began, done = time.perf_counter(), 0
        while in_flight or not done:
            if len(in_flight) < self._options.slots and time.perf_counter() - began < _SECONDS:
                in_flight.append(submit())
                continue
            with in_flight.popleft():
                done += 1
        return done / (time.perf_counter() - began)
