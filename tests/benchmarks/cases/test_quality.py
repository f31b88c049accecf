import math
import sys

import numpy as np
import pytest

from overnet.benchmarks.cases.quality import (
    Reference,
    against_reference,
    check_image,
    fp32_onnx,
    make_reference,
    quality_of,
    read_reference,
    write_reference,
)
from overnet.errors import InputError, MissingDependency, OverNetError
from overnet.evaluation.measure import bicubic
from overnet.files.onnx_metadata import read_artifact
from overnet.imaging.metrics import largest_difference, psnr
from overnet.weights import bundled_checkpoint, bundled_folder


@pytest.fixture(scope="module")
def small():
    return check_image(48, 32)


def test_the_exact_result_is_pytorch_s_where_it_can_be(small):
    pytest.importorskip("torch")
    reference = make_reference(small, 2, None)
    assert reference.words.startswith("PyTorch 2")
    assert reference.exact.shape == (64, 96, 3)
    assert reference.exact.dtype == np.uint8
    # An ONNX file of the bundled weights is known by what it says of itself.
    by_file = make_reference(small, 2, bundled_folder() / "overnet_x2.onnx")
    assert by_file.words == reference.words
    assert np.array_equal(by_file.exact, reference.exact)


def test_without_torch_the_onnx_file_stands_for_it(small, monkeypatch):
    exact = make_reference(small, 2, None).exact
    monkeypatch.setitem(sys.modules, "torch", None)
    reference = make_reference(small, 2, None)
    assert reference.words.startswith("openvino ")
    assert "overnet_x2.onnx" in reference.words
    assert largest_difference(reference.exact, exact) <= 1
    with pytest.raises(MissingDependency, match="torch"):
        make_reference(small, 2, bundled_checkpoint())


def test_without_openvino_either_it_is_onnx_runtime(small, monkeypatch):
    pytest.importorskip("onnxruntime")
    exact = make_reference(small, 2, None).exact
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "openvino", None)
    reference = make_reference(small, 2, None)
    assert reference.words.startswith("onnxruntime ")
    assert largest_difference(reference.exact, exact) <= 1


def test_a_model_of_other_weights_is_its_own_reference_in_fp32(small, small_models):
    file = small_models / "small_x2.onnx"
    assert read_artifact(file).precision == "fp32"
    for model in (file, small_models):
        reference = make_reference(small, 2, model)
        assert reference.words.startswith("openvino ")
        assert "small_x2.onnx" in reference.words


def test_a_file_in_int8_is_compared_with_the_one_in_fp32_beside_it(small_models, tmp_path):
    """By its weights, not by its name; where there is none, that is said."""
    content = (small_models / "small_x2.onnx").read_bytes()
    assert content.count(b"fp32") == 1
    (tmp_path / "a.onnx").write_bytes(content.replace(b"fp32", b"int8"))
    assert fp32_onnx(tmp_path / "a.onnx", 2) is None
    with pytest.raises(InputError, match=r"a\.onnx: its exact result at x2 cannot be computed; put the FP32"):
        make_reference(check_image(16, 16), 2, tmp_path / "a.onnx")
    (tmp_path / "z.onnx").write_bytes(content)
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    assert fp32_onnx(tmp_path / "a.onnx", 2) == tmp_path / "z.onnx"
    assert fp32_onnx(tmp_path, 3) is None


def test_what_is_not_there_is_said(small, tmp_path):
    with pytest.raises(OverNetError, match="missing"):
        make_reference(small, 2, tmp_path / "missing.onnx")
    with pytest.raises(OverNetError):
        make_reference(small, 7, None)


def test_the_image_to_compare_on_has_the_case_s_size_up_to_a_limit():
    assert check_image(200, 100).shape == (100, 200, 3)
    assert check_image(1920, 1080).shape == (320, 320, 3)


def test_a_reference_is_kept_in_a_file(small, tmp_path):
    reference = Reference(small, small.repeat(2, axis=0).repeat(2, axis=1), "PyTorch, über alles")
    path = tmp_path / "reference.npz"
    write_reference(reference, path)
    again = read_reference(path)
    assert np.array_equal(again.image, reference.image)
    assert np.array_equal(again.exact, reference.exact)
    assert again.words == reference.words


def test_a_file_that_is_no_reference_is_refused(tmp_path):
    path = tmp_path / "reference.npz"
    with pytest.raises(InputError, match="reference"):
        read_reference(path)
    for content in (b"", b"PK\x03\x04 and no more", b"words"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="reference"):
            read_reference(path)
    np.savez(path, image=np.zeros((2, 2, 3)), exact=np.zeros((4, 4, 3)), words="floats")
    with pytest.raises(InputError, match="reference"):
        read_reference(path)


def test_a_known_difference_comes_out(small):
    exact = np.full((64, 96, 3), 100, np.uint8)
    off = exact.copy()
    off[0, 0, 0] = 104
    reference = Reference(small, exact, "a test")
    figures = against_reference(lambda image: off, reference)
    assert figures.largest_difference_levels == 4
    assert figures.reference_psnr_db == pytest.approx(10 * math.log10(255**2 / (16 / exact.size)))
    same = against_reference(lambda image: exact, reference)
    assert (same.reference_psnr_db, same.largest_difference_levels) == (None, 0)
    assert same.largest_difference_levels == 0


def test_real_images_tell_methods_apart(small):
    """Bicubic interpolation of the bundled photographs is better than repeating pixels."""
    smooth = quality_of(bicubic(2), 2, reference=None, ground_truth=None)
    coarse = quality_of(lambda image: image.repeat(2, axis=0).repeat(2, axis=1), 2, reference=None, ground_truth=None)
    assert smooth.ground_truth_psnr_db > coarse.ground_truth_psnr_db + 1
    assert smooth.ground_truth_ssim > coarse.ground_truth_ssim
    assert smooth.ground_truth
    assert (smooth.reference_psnr_db, smooth.largest_difference_levels) == (None, None)


def test_both_kinds_of_quality_stand_side_by_side(small, tmp_path):
    import cv2

    high = check_image(96, 64)
    assert cv2.imwrite(str(tmp_path / "one.png"), high[..., ::-1])
    exact = bicubic(2)(small)
    figures = quality_of(bicubic(2), 2, reference=Reference(small, exact, "a test"), ground_truth=tmp_path)
    assert figures.reference == "a test"
    assert figures.largest_difference_levels == 0
    assert 15 < figures.ground_truth_psnr_db < 60
    assert tmp_path.name in figures.ground_truth


def test_the_bundled_model_is_near_its_reference(small):
    from overnet.runtime.upscaler import Upscaler

    reference = make_reference(small, 2, None)
    with Upscaler(2, backend="openvino", precision="fp32") as upscaler:
        figures = against_reference(upscaler, reference)
        assert psnr(reference.exact, upscaler(small), border=0) >= 60
    assert figures.largest_difference_levels <= 1
    assert figures.reference_psnr_db is None or figures.reference_psnr_db >= 60
