import psutil
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from overnet.errors import InputError
from overnet.export.engine import profile as profile_module
from overnet.export.engine.profile import (
    HIGHEST_RATIO,
    available_device_memory,
    fit_profile,
    make_profile,
    predicted_bytes,
    stepped_down,
)
from overnet.files.engine_sidecar import LARGEST_PIXELS, SMALLEST_TILE, Profile
from overnet.system.cuda_device import CudaDevice

# Of the bundled network in FP16, as overnet.export.graph.costs counts them.
LANDSCAPE = "16x16:180x320:360x640"
BYTES_PER_PIXEL = 2444.0


def test_one_size_is_all_three():
    assert make_profile("180x320") == Profile((180, 320), (180, 320), (180, 320))
    assert make_profile("180x320").is_static


def test_three_sizes():
    assert make_profile("16x24:180X320: 360x640 ") == Profile((16, 24), (180, 320), (360, 640))


def test_the_default():
    assert make_profile(None) == Profile((16, 16), (180, 320), (640, 640), 1)


@given(st.lists(st.integers(1, 2000), min_size=3, max_size=3), st.lists(st.integers(1, 2000), min_size=3, max_size=3))
def test_a_profile_reads_back_as_it_is_written(heights, widths):
    profile = Profile(*zip(sorted(heights), sorted(widths), strict=True))
    assume(profile.problem() is None)
    assert make_profile(str(profile)) == profile


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected HEIGHTxWIDTH"),
        ("180", "expected HEIGHTxWIDTH"),
        ("180x", "expected HEIGHTxWIDTH"),
        ("180x320x3", "expected HEIGHTxWIDTH"),
        ("-1x3", "expected HEIGHTxWIDTH"),
        ("1.5x3", "expected HEIGHTxWIDTH"),
        ("1e3x3", "expected HEIGHTxWIDTH"),
        ("٣x٣", "expected HEIGHTxWIDTH"),
        ("16x16:32x32", "expected HEIGHTxWIDTH"),
        ("16x16:32x32:64x64:128x128", "expected HEIGHTxWIDTH"),
        ("16x16:nonsense:64x64", "expected HEIGHTxWIDTH"),
        ("\x1b[31m\n" * 30, "expected HEIGHTxWIDTH"),
        ("9" * 5000 + "x3", "expected HEIGHTxWIDTH"),
        ("0x16", "outside 1 to 16384"),
        ("16x16385", "outside 1 to 16384"),
        ("16x999999999", "outside 1 to 16384"),
        ("32x16:16x16:64x64", "heights of 32, 16 and 64"),
        ("16x16:16x128:64x64", "widths of 16, 128 and 64"),
        ("4097x2160", "takes 8849520 pixels at once"),
    ],
)
def test_impossible_shapes(text, expected):
    with pytest.raises(InputError, match=expected) as caught:
        make_profile(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


@pytest.mark.parametrize(("batch", "expected"), [(0, "batch of 0"), (65, "batch of 65"), (40, "pixels at once")])
def test_impossible_batches(batch, expected):
    with pytest.raises(InputError, match=expected):
        make_profile(None, batch)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    try:
        profile = make_profile(text)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert profile.problem() is None


@pytest.mark.parametrize("available", [None, 10_000_000_000])
def test_enough_memory_changes_nothing(available):
    wanted = make_profile(None, 2)
    assert fit_profile(wanted, BYTES_PER_PIXEL, available) == (wanted, ())


# Measured: activation memory that TensorRT-RTX 1.7.1 stated for the bundled network up to 360x640, with the count of
# activation bytes per pixel for the same graph.
@pytest.mark.parametrize(
    ("bytes_per_pixel", "stated", "precision"),
    [
        (2444, 535_132_160, "fp16"),
        (2444, 530_934_784, "fp16"),
        (2444, 551_254_528, "fp16"),
        (1522, 433_289_728, "fp16"),
        (4876, 1_079_527_424, "fp32"),
        (2444, 757_055_488, "int8"),
    ],
    ids=["x2", "x3", "x4", "x4-lean-memory", "x2-fp32", "x4-int8"],
)
def test_prediction_is_enough_and_not_far_too_much(bytes_per_pixel, stated, precision):
    predicted = predicted_bytes(make_profile(LANDSCAPE), bytes_per_pixel * HIGHEST_RATIO[precision])
    assert stated <= predicted <= 1.4 * stated


@pytest.mark.parametrize(
    ("shape", "available", "expected"),
    [
        # 6.3 GB to run of 11.3: the half that building may take held no more than 720p.
        ("16x16:1080x1920:1080x1920", 11_300_000_000, "16x16:1008x1808:1080x1920"),
        # An Orin Nano of 8 GB.
        ("16x16:720x1280:720x1280", 4_500_000_000, "16x16:640x1136:720x1280"),
        ("16x16:360x640:1080x1920", 11_300_000_000, "16x16:360x640:1080x1920"),
    ],
)
def test_running_and_building_are_planned_apart(shape, available, expected):
    fitted, notes = fit_profile(make_profile(shape), BYTES_PER_PIXEL, available)
    assert str(fitted) == expected
    assert bool(notes) == (str(fitted) != shape)


def test_fewer_images_before_smaller_ones():
    fitted, (note,) = fit_profile(make_profile(LANDSCAPE, 4), BYTES_PER_PIXEL, 3_000_000_000)
    assert fitted == make_profile(LANDSCAPE, 2)
    assert "batch 2 instead of 4" in note and "tiles" not in note


def test_smaller_images_and_then_tiles():
    fitted, (note,) = fit_profile(make_profile(LANDSCAPE), BYTES_PER_PIXEL, 600_000_000)
    height, width = fitted.maximum
    assert SMALLEST_TILE <= height < 360 and SMALLEST_TILE <= width < 640
    assert fitted.minimum == (16, 16)
    assert f"{fitted} instead" in note and f"tiles of up to {height}x{width}" in note


# Numbers in the largest tensor of the bundled network for each pixel.
WIDEST = 384.0


@pytest.mark.parametrize(
    ("shape", "batch", "available", "expected"),
    [
        # 8,847,360 pixels times 384 are above 2^31 - 1; 5,592,405 pixels are not.
        ("16x16:360x640:2160x4096", 1, None, "16x16:360x640:1712x3248"),
        ("2160x4096", 1, 10**12, "1712x3248"),
        ("1080x1920", 4, None, "1080x1920, batch 2"),
        ("1080x1920", 2, None, "1080x1920, batch 2"),
        # The memory is shorter than the limit.
        ("16x16:360x640:2160x4096", 1, 20_000_000_000, "16x16:360x640:1600x3040"),
    ],
)
def test_no_tensor_has_more_numbers_than_tensorrt_takes(shape, batch, available, expected):
    wanted = make_profile(shape, batch)
    fitted, notes = fit_profile(wanted, BYTES_PER_PIXEL, available, widest_per_pixel=WIDEST)
    assert str(fitted) == expected
    assert fitted.pixels * WIDEST <= 2**31 - 1
    if fitted != wanted and available != 20_000_000_000:
        (note,) = notes
        assert "and TensorRT takes at most 2147483647" in note
    # A network with narrow tensors takes them all.
    assert fit_profile(make_profile("2160x4096"), 300.0, None, widest_per_pixel=32.0)[1] == ()


def test_stepping_down():
    """Fewer images first, then smaller ones, down to the smallest tile."""
    found, profile = [], make_profile("16x16:180x320:360x640", 4)
    while profile := stepped_down(profile):
        found.append(str(profile))
    assert found[:3] == ["16x16:180x320:360x640, batch 2", "16x16:180x320:360x640", "16x16:180x320:240x448"]
    assert found[-1] == "16x16:96x96:96x96"
    assert len(found) <= 8


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        # The free memory of an 8 GB Orin Nano; one of 4 GB; and less, where landscape images still go whole.
        (5_000_000_000, "16x16:180x320:640x640"),
        (2_200_000_000, "16x16:180x320:640x640"),
        (1_000_000_000, "16x16:180x320:368x640"),
        (600_000_000, "16x16:180x320:272x496"),
    ],
)
def test_the_default_takes_upright_images_and_gives_them_up_first(available, expected):
    assert str(fit_profile(make_profile(None), BYTES_PER_PIXEL, available)[0]) == expected


def test_a_static_profile_stays_static():
    fitted, _ = fit_profile(make_profile("1080x1920"), BYTES_PER_PIXEL, 2_000_000_000)
    assert fitted.is_static and fitted.problem() is None


def test_too_little_for_any():
    with pytest.raises(InputError, match=r"even 16x16:96x192:96x192 needs about 70 MB"):
        fit_profile(make_profile(LANDSCAPE), BYTES_PER_PIXEL, 90_000_000)


@given(
    st.lists(st.integers(1, 4096), min_size=3, max_size=3),
    st.lists(st.integers(1, 4096), min_size=3, max_size=3),
    st.integers(1, 16),
    st.floats(100, 20_000),
    st.integers(0, 1 << 36),
    st.integers(0, 1 << 28),
)
def test_whatever_is_chosen_fits(heights, widths, batch, bytes_per_pixel, available, weights):
    minimum, optimum, maximum = zip(sorted(heights), sorted(widths), strict=True)
    wanted = Profile(minimum, optimum, maximum, batch)
    assume(wanted.problem() is None)
    try:
        chosen, notes = fit_profile(wanted, bytes_per_pixel, available, weights_bytes=weights)
    except InputError as error:
        # The smallest that is considered takes more than half of it.
        smallest = min(96, wanted.maximum[0]) * min(96, wanted.maximum[1])
        assert (
            max(70e6, smallest * bytes_per_pixel * 1.25) + weights > available * (0.5 if wanted.is_static else 0.75) - 1
        )
        assert str(error).isprintable()
        return
    assert predicted_bytes(chosen, bytes_per_pixel * HIGHEST_RATIO["fp16"], weights) <= available * 0.75
    built = Profile(chosen.minimum, chosen.optimum, chosen.optimum, chosen.batch)
    at_its_least = max(chosen.optimum) <= 96 or any(
        side == least for side, least in zip(chosen.optimum, chosen.minimum, strict=True)
    )
    building = predicted_bytes(built, bytes_per_pixel * HIGHEST_RATIO["fp16"], weights)
    assert at_its_least or building <= max(available * 0.5, weights + 70_000_000)
    assert chosen.problem() is None and chosen.batch <= wanted.batch
    assert all(new <= old for new, old in zip(chosen.maximum, wanted.maximum, strict=True))
    assert bool(notes) == (chosen != wanted)
    if chosen.maximum != wanted.maximum:
        assert chosen.batch == 1 and f"tiles of up to {chosen.maximum[0]}x{chosen.maximum[1]}" in notes[0]


def test_largest_profile_is_a_4k_image():
    assert make_profile("2160x4096").pixels == LARGEST_PIXELS


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, None),
        (CudaDevice("NVIDIA RTX 4070", "8.9", shares_memory=False), 5_000_000_000),
        (CudaDevice("Orin", "8.7", shares_memory=True), 3_000_000_000),
    ],
    ids=["none", "desktop", "jetson"],
)
def test_memory_is_asked_of_whom_it_belongs_to(monkeypatch, device, expected):
    available = psutil.virtual_memory()._replace(available=3_000_000_000)
    monkeypatch.setattr(profile_module, "cuda_device", lambda: device)
    monkeypatch.setattr(profile_module, "free_device_memory_bytes", lambda: 5_000_000_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    assert available_device_memory() == expected
