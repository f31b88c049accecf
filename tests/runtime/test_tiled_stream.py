import threading
from contextlib import closing, contextmanager

import av
import numpy as np
import pytest

from overnet.imaging.metrics import psnr
from overnet.runtime.backends.base import BackendOptions
from overnet.runtime.backends.registry import BACKENDS
from overnet.runtime.scene import measure_frame
from overnet.weights import bundled_folder
from tests.conftest import SHARED, needs_shared
from tests.support.local_backend import LocalBackend, enlarge, open_tiled, stream_frames

TILES, PASS = 4, 4


def scene(seed, count, size=(120, 148)):
    """A texture that moves by a pixel a frame."""
    random = np.random.default_rng(seed)
    low, high = sorted(random.integers(0, 255, 2))
    coarse = random.integers(low, high + 1, (size[0] // 4, size[1] // 4 + count, 3), dtype=np.uint8)
    wide = coarse.repeat(4, axis=0).repeat(4, axis=1)
    return [np.ascontiguousarray(wide[:, index : index + size[1]]) for index in range(count)]


def own_means(images, given=None):
    own = images.mean(axis=(1, 2), dtype=np.float32)[:, :, None, None]
    return [own, own * (own if given is None else given[0])]


def means_of_runs(frames):
    """The number of runs for means of each frame of a stream in four tiles, and that of all runs."""
    backend = LocalBackend(means=own_means)
    counts = [[wanted for _, wanted in runs] for _, runs in stream_frames(backend, frames, (96, 96))]
    return [sum(wanted) for wanted in counts], [len(wanted) for wanted in counts]


def test_means_are_gathered_for_two_frames_of_a_scene_and_carried_over():
    """Every frame took two passes, 12 runs in all."""
    gathered, runs = means_of_runs(scene(1, 12))
    assert gathered == [PASS, PASS, *[0] * 10]
    assert runs == [TILES + PASS, TILES + PASS, *[TILES] * 10]


def test_a_cut_gathers_anew_from_the_frame_alone():
    gathered, _ = means_of_runs([*scene(1, 5), *scene(2, 5)])
    assert gathered == [PASS, PASS, 0, 0, 0] * 2
    first = scene(1, 5)
    found = [image for image, _ in stream_frames(LocalBackend(tinted, own_means), [*scene(2, 3), *first], (96, 96))]
    alone = [image for image, _ in stream_frames(LocalBackend(tinted, own_means), first, (96, 96))]
    assert all(np.array_equal(*pair) for pair in zip(found[3:], alone, strict=True))


def tinted(images, means):
    """A result that depends on the means."""
    shift = np.zeros((1, 3, 1, 1)) if means is None else means[0] + means[1] / 300
    return enlarge(np.clip(images / 2 + shift.reshape(1, 1, 1, 3) / 4, 0, 255).astype(np.uint8))


def test_a_fade_gathers_at_most_once_a_frame_and_follows():
    frames = [np.clip(frame * (1 - index / 12), 0, 255).astype(np.uint8) for index, frame in enumerate(scene(3, 12))]
    used = []

    def upscale(images, means):
        used.append(means)
        return enlarge(images)

    for frame, (_, runs) in zip(frames, stream_frames(LocalBackend(upscale, own_means), frames, (96, 96)), strict=True):
        assert len(runs) <= TILES + PASS
        assert np.abs(used[-1][0].ravel() - frame.mean(axis=(0, 1))).max() <= 4


def test_a_scene_that_looks_like_the_last_is_a_cut():
    """The same levels, contrast and detail: only the places differ."""
    first = scene(1, 2)
    turned = [np.ascontiguousarray(frame[::-1, ::-1]) for frame in first]
    assert measure_frame(first[1]).resembles(measure_frame(turned[0]))
    gathered, _ = means_of_runs([*first, *turned])
    assert gathered == [PASS] * 4


def test_noise_and_still_frames_are_no_cuts():
    random = np.random.default_rng(0)
    still = np.full((120, 148, 3), 60, np.uint8)
    noisy = [still + random.integers(0, 4, still.shape, dtype=np.uint8) for _ in range(6)]
    assert means_of_runs(noisy)[0] == [PASS, PASS, 0, 0, 0, 0]
    assert means_of_runs([still] * 4)[0] == [PASS, PASS, 0, 0]


def test_a_network_of_known_reach_takes_one_run_for_a_tile():
    backend = LocalBackend(means=None, reach=9)
    for frame, (found, runs) in zip(scene(1, 3), stream_frames(backend, scene(1, 3), (96, 96)), strict=True):
        assert len(runs) == TILES
        assert np.array_equal(found, enlarge(frame[None])[0])


class Delayed:
    """Runs that end when they are fetched, three of which fit; `log` has what was begun and fetched."""

    most = 3

    def __init__(self, log):
        self.log, self.alive, self.closed = log, 0, False

    def upscale(self, part, means):
        self.alive += 1
        assert self.alive <= self.most
        self.log.append("begun")
        return self._fetched(enlarge(part[None])[0], "fetched")

    def means(self, part, given):
        self.alive += 1
        assert self.alive <= self.most
        return self._fetched(own_means(part[None], given), "means")

    @contextmanager
    def _fetched(self, result, what):
        try:
            self.log.append(what)
            yield result
        finally:
            self.alive -= 1

    def stop(self):
        pass

    def close(self):
        self.closed = True


class DelayedBackend(LocalBackend):
    def open_tiles(self, size):
        self.log = []
        self.opened = Delayed(self.log)
        return self.opened


def test_tiles_of_two_frames_are_in_flight_at_once():
    """Each tile was waited for before the next was begun."""
    backend, frames = DelayedBackend(), scene(1, 4)
    with closing(open_tiled(backend, frames[0].shape[:2], (96, 96))) as stream:
        tickets = []
        for frame in frames:
            tickets.append(stream.submit(frame))
            assert backend.opened.alive == Delayed.most, "a frame is submitted with its last tiles in flight"
            backend.log.append("submitted")
        for ticket in tickets:
            with ticket as found:
                last = found.copy()
    assert np.array_equal(last, enlarge(frames[3][None])[0])
    last_two = backend.log[backend.log.index("submitted", backend.log.index("submitted") + 1) + 1 :]
    # Without means: a tile is fetched only where another needs its slot.
    assert last_two[:8] == ["fetched", "begun"] * 4 and "means" not in last_two
    assert backend.opened.alive == 0 and backend.opened.closed


def test_frames_are_fetched_in_another_thread_and_results_are_reused():
    backend, frames = DelayedBackend(means=own_means), scene(1, 30)
    found, arrays = [], set()
    with closing(open_tiled(backend, frames[0].shape[:2], (96, 96))) as stream:
        for frame in frames:
            ticket = stream.submit(frame)

            def fetch(ticket=ticket):
                with ticket as result:
                    arrays.add(result.ctypes.data)
                    found.append(result.copy())

            thread = threading.Thread(target=fetch)
            thread.start()
            thread.join()
    assert all(np.array_equal(one, enlarge(frame[None])[0]) for one, frame in zip(found, frames, strict=True))
    assert len(arrays) == 1


def test_a_tile_that_fails_is_the_error_of_its_frame_and_closing_goes_on():
    def fail(images, means):
        if images[0, 0, 0, 0] == 7:
            raise ZeroDivisionError
        return enlarge(images)

    frames = scene(1, 2)
    frames[1][0, 0] = 7
    with closing(open_tiled(LocalBackend(fail), frames[0].shape[:2], (96, 96))) as stream:
        with stream.submit(frames[0]):
            pass
        with pytest.raises(ZeroDivisionError), stream.submit(frames[1]):
            pass


def clip(first, last, step, rows=slice(None), columns=slice(None)):
    with av.open(str(SHARED / "clips/bbb_320x180.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.ascontiguousarray(frame[rows, columns]) for frame in frames[first:last:step]]


@needs_shared
@pytest.mark.parametrize(
    "cut",
    [
        pytest.param((66, 78, 2, slice(20, 148), slice(80, 256)), marks=pytest.mark.slow),
        pytest.param((0, 32, 4), marks=pytest.mark.weekly),
    ],
)
def test_the_bound_of_means_that_are_carried_over(cut):
    """On a real clip through the CPU: within 3 levels and 60 dB of the frames upscaled whole."""
    backend = BACKENDS["openvino"].load(bundled_folder() / "overnet_x2.onnx", 2, BackendOptions())
    frames = clip(*cut)
    counting = LocalBackend(backend.upscale, backend.channel_means)
    gathered = 0
    for frame, (found, runs) in zip(frames, stream_frames(counting, frames, (96, 176)), strict=True):
        whole = backend.upscale(frame[None])[0]
        is_gathered = any(wanted for _, wanted in runs)
        gathered += is_gathered
        assert sum(wanted for _, wanted in runs) in (0, len(runs) // 2)
        difference = int(np.abs(found.astype(int) - whole).max())
        found_db = psnr(whole, found, border=0)
        print(f"{difference} levels, {found_db:.1f} dB, {len(runs)} runs")
        assert difference <= 3 and found_db >= 60
    assert 2 <= gathered < len(frames)
