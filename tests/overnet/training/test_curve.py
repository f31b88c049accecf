import pytest

from overnet.errors import OutputError
from overnet.training.curve import Curve, CurvePoint

HEADER = "step,seconds,loss,learning_rate,patches_per_second"


def test_what_is_not_known_is_left_empty(tmp_path):
    curve = Curve(tmp_path / "c.csv", [4, 2], 0)
    curve.add(CurvePoint(0, 0.0, psnr_db={2: 30.12346, 4: 25.0}))
    curve.add(CurvePoint(10, 61.26, 0.0123456789, 1e-3, 14.567))
    assert (tmp_path / "c.csv").read_text().splitlines() == [
        f"{HEADER},psnr_x2_db,psnr_x4_db",
        "0,0.0,,,,30.1235,25.0000",
        "10,61.3,0.0123457,0.001,14.57,,",
    ]


def test_a_new_run_begins_a_new_curve(tmp_path):
    for _ in range(2):
        Curve(tmp_path / "c.csv", [], 0).add(CurvePoint(1, 1.0, 0.5, 0.1, 2.0))
    assert (tmp_path / "c.csv").read_text() == f"{HEADER}\n1,1.0,0.5,0.1,2\n"


@pytest.mark.parametrize("half", ["", "3", "3,3.0,0.", "30,3.0,0.5,0.1,2,"])
def test_a_resumed_run_keeps_whole_lines_up_to_its_step(tmp_path, half):
    path = tmp_path / "c.csv"
    curve = Curve(path, [2], 0)
    for step in (1, 2, 5):
        curve.add(CurvePoint(step, step, 0.5, 0.1, 2.0, {2: 30.0}))
    with path.open("a") as file:
        file.write(half)
    curve = Curve(path, [2, 3], 2)
    curve.add(CurvePoint(2, 9.0, 0.9, 0.1, 2.0))
    curve.add(CurvePoint(4, 4.0, 0.5, 0.1, 2.0, {3: 28.0}))
    assert path.read_text().splitlines() == [
        f"{HEADER},psnr_x2_db,psnr_x3_db",
        "1,1.0,0.5,0.1,2,30.0000,",
        "2,2.0,0.5,0.1,2,30.0000,",
        "4,4.0,0.5,0.1,2,,28.0000",
    ]


def test_half_a_line_goes_even_where_its_step_would_stay(tmp_path):
    path = tmp_path / "c.csv"
    Curve(path, [], 0).add(CurvePoint(1, 1.0, 0.5, 0.1, 2.0))
    with path.open("a") as file:
        file.write("2,2.0,0.")
    Curve(path, [], 5)
    assert path.read_text() == f"{HEADER}\n1,1.0,0.5,0.1,2\n"


def test_columns_stay_where_a_resumed_run_validates_nothing(tmp_path):
    path = tmp_path / "c.csv"
    Curve(path, [2], 0).add(CurvePoint(1, 1.0, 0.5, 0.1, 2.0, {2: 30.0}))
    before = path.read_bytes()
    Curve(path, [], 1)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"a,b\n1,2\n", b"step\nx\n\n"])
def test_a_file_that_is_none_of_ours_is_replaced(tmp_path, content):
    (tmp_path / "c.csv").write_bytes(content)
    Curve(tmp_path / "c.csv", [], 3)
    assert (tmp_path / "c.csv").read_text() == f"{HEADER}\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"c\.csv cannot be written"):
        Curve(tmp_path / "missing" / "c.csv", [], 0)
    curve = Curve(tmp_path / "c.csv", [], 0)
    (tmp_path / "c.csv").unlink()
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(OutputError, match=r"c\.csv cannot be written"):
        curve.add(CurvePoint(1, 1.0))
