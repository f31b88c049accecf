"""ONNX Runtime sessions of TensorRT for one graph: an engine for each of a few ranges of image sizes.

By itself ONNX Runtime builds an engine for the first size, and again, which takes minutes, for each image that is
larger or smaller than all before. With the sizes set beforehand it builds one for the whole range, and stores it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from overnet.errors import one_line
from overnet.runtime.backends.base import engine_size, is_out_of_memory
from overnet.runtime.backends.ort.binding import BoundSession

# The smallest image that the deployed graph is exact for.
_LOWEST_SIDE = 16
# Number of sessions with an engine that are kept, such as one for whole images and one for tiles.
_KEPT_SESSIONS = 2

# The smallest, the usual and the largest shape of each input, as TensorRT's options write them.
ProfileOptions = dict[str, str]


class ProfiledSession:
    """Sessions that take the inputs of one graph; each is opened at the first image of its range of sizes.

    Args:
        plain: a session of the graph with no sizes set, for which no engine is built before it runs.
        reopen: opens a session with `ProfileOptions`, whose second argument is a name for the range.
        note: called with remarks for the user.
    """

    def __init__(
        self, plain: BoundSession, reopen: Callable[[ProfileOptions, str], BoundSession], note: Callable[[str], None]
    ) -> None:
        self._plain, self._reopen, self._note = plain, reopen, note
        self._sessions: OrderedDict[str, BoundSession] = OrderedDict()
        # TensorRT's options have no way to write a name with these characters.
        self._takes_profiles = not any(mark in name for name in plain.input_names for mark in ":,")

    def run(self, inputs: Sequence[NDArray[Any]], output_shape: tuple[int, ...] | None = None) -> list[NDArray[Any]]:
        """Run once; see `overnet.runtime.backends.ort.binding.BoundSession.run`."""
        return self._for([array.shape for array in inputs]).run(inputs, output_shape)

    def run_once(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Run with no sizes set; see `overnet.runtime.backends.ort.binding.BoundSession.run_once`."""
        return self._plain.run_once(inputs)

    def _for(self, shapes: list[tuple[int, ...]]) -> BoundSession:
        options, name = profile_options(self._plain.input_names, shapes)
        if name not in self._sessions and self._takes_profiles:
            while len(self._sessions) >= _KEPT_SESSIONS:
                self._sessions.popitem(last=False)
            try:
                self._sessions[name] = self._reopen(options, name)
            except Exception as error:  # ONNX Runtime's own
                if is_out_of_memory(error):
                    raise
                # Such as where TensorRT takes a part of the graph only, whose inputs are others.
                self._takes_profiles = False
                self._note(f"TensorRT builds an engine for each new size of image, not for a range ({one_line(error)})")
        if name not in self._sessions:
            return self._plain
        self._sessions.move_to_end(name)
        return self._sessions[name]


def profile_options(names: Sequence[str], shapes: Sequence[tuple[int, ...]]) -> tuple[ProfileOptions, str]:
    """Return TensorRT's options for the range of sizes that an image belongs to, and a name for the range.

    Args:
        names: of the inputs; the image is the first.
        shapes: of the inputs: N x H x W x 3 for the image. The others do not vary with its size.
    """
    count, height, width, channels = shapes[0]
    largest = engine_size((height, width))
    low, high = (_LOWEST_SIDE, _LOWEST_SIDE), largest
    if high is None or min(height, width) < _LOWEST_SIDE:
        low = high = (height, width)  # a range of its own
    options = {}
    for kind, size in (("min", low), ("opt", high), ("max", high)):
        written = [(count, *size, channels), *shapes[1:]]
        options[f"trt_profile_{kind}_shapes"] = ",".join(
            f"{name}:{'x'.join(map(str, shape))}" for name, shape in zip(names, written, strict=True)
        )
    return options, f"{count}x{'x'.join(map(str, (*low, *high)))}"
