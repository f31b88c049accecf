import cv2
import numpy as np
import pytest

from overnet.errors import InputError
from overnet.imaging.image_io import read_rgb
from overnet.training.data.packed_images import PackedImages, pack


@pytest.fixture
def folder(tmp_path, image):
    """Three images, one of them in a folder below."""
    folder = tmp_path / "images"
    (folder / "below").mkdir(parents=True)
    cv2.imwrite(str(folder / "a.png"), image)
    cv2.imwrite(str(folder / "below" / "b.png"), image[:20])
    cv2.imwrite(str(folder / "c.jpg"), image[:, :30])
    return folder


def packed(folder, path):
    said = []
    return pack([folder], path, report=said.append), said


def test_images_come_out_as_they_went_in(folder, tmp_path, image):
    images, _ = packed(folder, tmp_path / "out" / "p.packed")
    assert len(images) == 3
    np.testing.assert_array_equal(images[0], image[..., ::-1])
    np.testing.assert_array_equal(images[1], image[:20, :, ::-1])
    assert images[2].shape == (50, 30, 3)


def test_packing_again_reads_no_image(folder, tmp_path):
    path = tmp_path / "p.packed"
    packed(folder, path)
    before = path.stat()
    _, said = packed(folder, path)
    assert said == []
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_changed_folder_is_packed_anew(folder, tmp_path, image):
    packed(folder, tmp_path / "p.packed")
    cv2.imwrite(str(folder / "d.png"), image[:10])
    assert len(packed(folder, tmp_path / "p.packed")[0]) == 4


def test_a_packed_file_is_taken_as_it_is(folder, tmp_path):
    images, _ = packed(folder, tmp_path / "p.packed")
    again, said = packed(tmp_path / "p.packed", tmp_path / "not made")
    assert (len(again), said, (tmp_path / "not made").exists()) == (len(images), [], False)


def damage(content, how):
    return {
        "truncated": content[: len(content) * 2 // 3],
        "changed": content[:200] + bytes([content[200] ^ 255]) + content[201:],
        "empty": b"",
        "text": b"not an image",
    }[how]


@pytest.mark.parametrize(
    ("name", "how"),
    [("a.png", "truncated"), ("a.png", "changed"), ("a.png", "empty"), ("a.png", "text"), ("c.jpg", "truncated")],
)
def test_damaged_images_are_named_and_left_out(folder, tmp_path, name, how):
    path = folder / name
    path.write_bytes(damage(path.read_bytes(), how))
    images, said = packed(folder, tmp_path / "p.packed")
    assert len(images) == 2
    assert any(name in line and "left out" in line for line in said)


def test_interrupted_packing_leaves_nothing_and_starts_clean(folder, tmp_path, monkeypatch):
    path = tmp_path / "out" / "p.packed"
    calls = []

    def interrupted(path):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return read_rgb(path)

    monkeypatch.setattr("overnet.training.data.packed_images.read_rgb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        packed(folder, path)
    assert list(path.parent.iterdir()) == []
    assert len(packed(folder, path)[0]) == 3


@pytest.mark.parametrize("keep", [0, 5, 1000, -1, -30])
def test_a_truncated_packed_file_is_refused_and_packed_again(folder, tmp_path, keep):
    path = tmp_path / "p.packed"
    packed(folder, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"p\.packed"):
        PackedImages(path)
    images, said = packed(folder, path)
    assert len(images) == 3
    assert "packed again" in said[0]


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        packed(tmp_path / "missing", tmp_path / "p.packed")
    with pytest.raises(InputError, match="no image"):
        packed(tmp_path, tmp_path / "p.packed")
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(InputError, match="no image in it can be read, of 1"):
        packed(tmp_path, tmp_path / "p.packed")


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png is empty"):
        read_rgb(folder / "a.png")
    with pytest.raises(InputError, match=r"missing\.png does not exist"):
        read_rgb(folder / "missing.png")


def test_grey_and_transparent_images_become_rgb(tmp_path, image):
    for converted in (image[..., 0], np.dstack([image, image[..., 0]]), image.astype(np.uint16) * 257):
        cv2.imwrite(str(tmp_path / "a.png"), converted)
        decoded = read_rgb(tmp_path / "a.png")
        assert (decoded.shape, decoded.dtype) == ((50, 66, 3), np.uint8)
