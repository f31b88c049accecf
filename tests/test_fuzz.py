"""Damaged and hostile files of every kind: 200 mutants each, which end well or in one line."""

import json
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

from overnet.benchmarks.results import write_run
from overnet.files.engine_sidecar import sidecar_text
from overnet.network.family import build
from overnet.network.model import OverNetConfig
from overnet.training.data.packed_images import pack
from tests.conftest import ROOT, write_clip
from tests.export.foreign.test_read import write as write_foreign
from tests.overnet.files.test_engine_sidecar import SIDECAR
from tests.support.example_run import example_run
from tests.support.foreign_networks import write_onnx
from tests.support.fuzz import USES
from tests.support.small_run import tiny_state

TINY = OverNetConfig(width=8, groups=1, blocks=1, expansion=1, overscale=3, squeeze=4)


def photo(height=40, width=56):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 4 % 256, y * 5 % 256, (x + y) * 3 % 256], -1).astype(np.uint8)


@pytest.fixture
def seeds(tmp_path, small_models, small_checkpoint):  # noqa: C901 - one branch for each kind
    """Return a function that writes sound files of a kind into the folder ``seeds``."""
    folder = tmp_path / "seeds"
    folder.mkdir()

    def write(kind):
        if kind == "checkpoint":
            shutil.copy(small_checkpoint, folder)
        elif kind == "pickle":
            state = {name: tensor for name, tensor in build(TINY).state_dict().items() if "entry" in name}
            torch.save({"model_state_dict": state, "epoch": 3}, folder / "a.pth")
            torch.save(state, folder / "b.pth", _use_new_zipfile_serialization=False)
        elif kind == "onnx":
            shutil.copy(next(small_models.glob("*x2*.onnx")), folder)
        elif kind == "foreign":
            write_onnx(folder / "a.onnx", "compact")
            write_foreign(folder / "b.onnx")
        elif kind == "results":
            write_run(example_run(), folder / "a.json", overwrite=False)
        elif kind == "state":
            tiny_state().save(folder)
            tiny_state(network="realtime", optimiser="muon").save(folder)  # the first becomes previous.pt
        elif kind == "sidecar":
            (folder / "a.json").write_text(sidecar_text(SIDECAR))
        elif kind == "packed":
            (tmp_path / "images").mkdir()
            cv2.imwrite(str(tmp_path / "images" / "a.png"), photo(80, 80))
            pack([tmp_path / "images"], folder / "a.packed", report=lambda line: None)
        elif kind == "image":
            for suffix in ("png", "jpg", "webp", "tif", "bmp", "ppm"):
                cv2.imwrite(str(folder / f"a.{suffix}"), photo())
        else:
            for suffix in ("mp4", "mkv", "avi"):
                write_clip(folder / f"a.{suffix}", frames=6)

    return write


@pytest.mark.slow
@pytest.mark.parametrize("kind", USES)
def test_mutants_end_well_or_in_one_line(kind, seeds, tmp_path):
    seeds(kind)
    finished = subprocess.run(
        # Those of results take the longest, since each is written as a report.
        [sys.executable, "-m", "tests.support.fuzz", kind, str(tmp_path), "70" if kind == "results" else "200"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert finished.returncode >= 0, f"{signal.Signals(-finished.returncode).name} {finished.stderr[-500:]}"
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert json.loads(finished.stdout.splitlines()[-1]) == []
