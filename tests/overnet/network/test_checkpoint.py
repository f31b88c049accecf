import json
import math
import os
import pickle
import resource
import shutil
import time
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import safetensors.torch
import torch

from overnet.errors import CheckpointError, OutputError
from overnet.network.checkpoint import (
    folded,
    load_checkpoint,
    load_overnet,
    read_metadata,
    save_checkpoint,
    weights_sha256,
)
from overnet.network.model import OverNet, OverNetConfig
from overnet.weights import bundled_checkpoint
from tests.conftest import SHARED, needs_shared

CONFIG = OverNetConfig(width=16, groups=2, blocks=2, expansion=2, overscale=4, squeeze=4)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return OverNet(CONFIG).eval()


@pytest.fixture(params=[2, 3, 4])
def golden(request):
    if not SHARED.is_dir():
        pytest.skip("the golden files are not here")
    folder = SHARED / "golden"
    recorded = np.load(folder / f"overnet_random_x{request.param}.npz")
    return folder / f"overnet_random_x{request.param}.pth.tar", recorded, request.param


def test_golden_outputs(golden):
    path, recorded, scale = golden
    with torch.no_grad():
        upscaled = load_checkpoint(path)(torch.from_numpy(recorded["input"]), scale).numpy()
    assert np.abs(upscaled - recorded["output"]).max() <= 1e-5


def test_golden_outputs_of_the_folded_form(golden, tmp_path):
    """The same state dict with weight normalisation folded, still in the original's names."""
    path, recorded, scale = golden
    state = torch.load(path, weights_only=True)["model_state_dict"]
    plain = {}
    for name, tensor in state.items():
        if name.endswith("weight_v"):
            norm = tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            plain[name.replace("weight_v", "weight")] = state[name.replace("weight_v", "weight_g")] * tensor / norm
        elif not name.endswith("weight_g"):
            plain[name] = tensor
    torch.save({"step": 1, "model_state_dict": plain}, tmp_path / "folded.pth.tar")
    model = load_overnet(tmp_path / "folded.pth.tar")
    assert not model.config.weight_normalised
    with torch.no_grad():
        upscaled = model(torch.from_numpy(recorded["input"]), scale).numpy()
    assert np.abs(upscaled - recorded["output"]).max() <= 1e-5


def test_golden_hash_is_the_same_in_every_form(golden, tmp_path):
    original = load_checkpoint(golden[0])
    save_checkpoint(original, tmp_path / "own.safetensors")
    save_checkpoint(folded(original), tmp_path / "plain.safetensors")
    hashes = {weights_sha256(load_checkpoint(tmp_path / name)) for name in ("own.safetensors", "plain.safetensors")}
    assert hashes == {weights_sha256(original)}


def test_own_form_round_trip(model, tmp_path):
    save_checkpoint(model, tmp_path / "own.safetensors", metadata={"steps": "12"})
    loaded = load_checkpoint(tmp_path / "own.safetensors")
    assert loaded.config == CONFIG
    assert read_metadata(tmp_path / "own.safetensors")["steps"] == "12"
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x, 2.5), model(x, 2.5))


def test_the_same_network_makes_the_same_file(model, tmp_path):
    for name in ("a", "b", "c"):
        save_checkpoint(model, tmp_path / name, metadata={str(number): "x" for number in range(20)})
    assert len({(tmp_path / name).read_bytes() for name in ("a", "b", "c")}) == 1


def test_folding_changes_nothing(model):
    x = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        assert torch.allclose(folded(model)(x, 3), model(x, 3), atol=1e-6)


@needs_shared
def test_best_psnr_as_a_numpy_number(tmp_path):
    """The original's training loop stores its best PSNR as numpy gives it."""
    content = torch.load(SHARED / "golden/overnet_random_x2.pth.tar", weights_only=True)
    content["best_psnr"] = np.float64(38.11)
    torch.save(content, tmp_path / "trained.pth.tar")
    assert load_overnet(tmp_path / "trained.pth.tar").config.overscale == 3


@needs_shared
def test_names_of_a_data_parallel_network(tmp_path):
    content = torch.load(SHARED / "golden/overnet_random_x2.pth.tar", weights_only=True)
    content["model_state_dict"] = {f"module.{name}": value for name, value in content["model_state_dict"].items()}
    torch.save(content, tmp_path / "parallel.pth.tar")
    assert load_overnet(tmp_path / "parallel.pth.tar").config.overscale == 3


def test_bundled_weights():
    model = load_overnet(bundled_checkpoint())
    assert model.config.overscale == 5
    assert sum(p.numel() for p in model.parameters()) == 1_071_814


# What is wrong with it, and what the message has to name.


def broken_file(tmp_path, content: bytes, name="broken.pth.tar"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def assert_refused(path, *expected):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert "\n" not in message
    for text in (path.name, *expected):
        assert text in message


def test_missing_file(tmp_path):
    assert_refused(tmp_path / "none.pth.tar", "No such file")


def test_folder(tmp_path):
    assert_refused(tmp_path, "directory")


def test_empty_file(tmp_path):
    assert_refused(broken_file(tmp_path, b""), "empty")


def test_text_file(tmp_path):
    assert_refused(broken_file(tmp_path, b"just some words"), "neither")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_pickle(model, tmp_path, share):
    whole = tmp_path / "whole.pth.tar"
    torch.save({"model_state_dict": model.state_dict()}, whole)
    content = whole.read_bytes()
    assert_refused(broken_file(tmp_path, content[: int(len(content) * share)]), "truncated")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_truncated_safetensors(model, tmp_path, share):
    save_checkpoint(model, tmp_path / "whole.safetensors")
    content = (tmp_path / "whole.safetensors").read_bytes()
    assert_refused(broken_file(tmp_path, content[: int(len(content) * share)], "cut.safetensors"), "not a whole")


class Malicious:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_carrying_pickle_is_refused_and_not_run(tmp_path, monkeypatch, legacy):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth.tar"
    torch.save({"model_state_dict": Malicious()}, path, _use_new_zipfile_serialization=not legacy)
    assert_refused(path, "refused", "system")
    assert not (tmp_path / "pwned").exists()


def test_bare_code_carrying_pickle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(broken_file(tmp_path, pickle.dumps(Malicious(), protocol=4)))
    assert not (tmp_path / "pwned").exists()


def test_pickled_module_is_refused(model, tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert_refused(tmp_path / "module.pth", "refused", "Linear")


def test_foreign_network(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)).state_dict(), tmp_path / "foreign.pth")
    assert_refused(tmp_path / "foreign.pth", "another network", "0.weight", "docs/other-models.md")


def test_no_state_dict(tmp_path):
    torch.save({"params_ema": {"conv.weight": torch.ones(1)}}, tmp_path / "nothing.pth")
    assert_refused(tmp_path / "nothing.pth", "model_state_dict", "docs/other-models.md")


@needs_shared
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda s: s.pop("exit1.bias"), "head.exit.bias"),
        (lambda s: s.update({"exit1.bias": torch.zeros(4)}), "shape (4,)"),
        (lambda s: s.update({"entry_1.weight_v": torch.zeros(60, 3, 3, 3)}), "60"),
        (lambda s: s.update({"upsample.up.body.0.weight_v": torch.zeros(100, 16, 3, 3)}), "overscale"),
        (lambda s: s.update({"GDG1.RB1.body.0.bias": torch.full((384,), float("nan"))}), "NaN"),
        (lambda s: s.update({"exit1.bias": torch.zeros(3, dtype=torch.int32)}), "int32"),
        (lambda s: s.update({"sub_mean.shifter.bias": torch.zeros(3)}), "mean"),
        (lambda s: s.update({"extra.weight": torch.zeros(3)}), "extra.weight"),
    ],
    ids=["missing", "shape", "width", "overscale", "nan", "integers", "mean", "unexpected"],
)
def test_damaged_state(tmp_path, change, expected):
    content = torch.load(SHARED / "golden/overnet_random_x2.pth.tar", weights_only=True)
    change(content["model_state_dict"])
    torch.save(content, tmp_path / "damaged.pth.tar")
    assert_refused(tmp_path / "damaged.pth.tar", expected)


def test_damaged_configuration(model, tmp_path):
    save_checkpoint(model, tmp_path / "odd.safetensors")
    content = (tmp_path / "odd.safetensors").read_bytes().replace(b'\\"width\\": 16', b'\\"width\\": 17')
    assert_refused(broken_file(tmp_path, content, "changed.safetensors"), "configuration")


def odd_configuration(model, path, config: str):
    """Write the model's tensors with another configuration; return the path."""
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    safetensors.torch.save_file(state, path, {"overnet.config": config})
    return path


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("expansion", 16, "shape"),
        ("expansion", 2_000_000, "expansion is 2000000; it must be from 1 to 16"),
        ("width", 10**18, "width is 1000000000000000000"),
        ("width", 10**30, "width is out of range"),
        ("width", 16.0, "width is not a whole number"),
        ("width", True, "width is not a whole number"),
        ("blocks", 32, "missing"),
        ("groups", 32, "missing"),
        ("blocks", 10**9, "blocks is 1000000000"),
        ("groups", math.inf, "groups is not a whole number"),
        ("bottleneck", 1e-9, "bottleneck is 1e-09"),
        ("bottleneck", math.nan, "bottleneck is not a finite number"),
        ("squeeze", 0, "squeeze is 0"),
        ("overscale", 5.0, "overscale is not a whole number"),
        ("overscale", [4], "overscale is not a whole number"),
        ("\x1b]0;title\x07", 1, "?]0;title? is unknown"),
    ],
)
def test_hostile_configuration_takes_neither_time_nor_memory(model, tmp_path, field, value, expected):
    """Numbers are compared with bounds, and shapes with the file's, before a network of that size is made."""
    started = time.monotonic()
    path = odd_configuration(model, tmp_path / "odd.safetensors", json.dumps({**asdict(CONFIG), field: value}))
    assert_refused(path, expected)
    assert time.monotonic() - started < 5


def test_more_blocks_than_tensors(model, tmp_path):
    path = odd_configuration(
        model, tmp_path / "o.safetensors", json.dumps(asdict(replace(CONFIG, groups=32, blocks=32)))
    )
    assert_refused(path, "too few for 32 x 32 blocks")


def test_configuration_nested_deeply(model, tmp_path):
    assert_refused(odd_configuration(model, tmp_path / "deep.safetensors", "[" * 100_000), "not JSON")


def hostile_tensors(kind, path):
    """Write a checkpoint of a few kilobytes whose tensors are something else than so many numbers."""
    made = {
        "expanded": lambda: torch.ones(1).expand(1 << 20, 1 << 14),
        "meta": lambda: torch.empty(1 << 20, 1 << 14, device="meta"),
        "sparse": lambda: torch.ones(3, 3).to_sparse(),
        "compressed": lambda: torch.zeros(1 << 20),
    }[kind]()
    torch.save({"model_state_dict": {"entry_1.bias": made}}, path)
    if kind == "compressed":
        with zipfile.ZipFile(path) as archive:
            members = {member.filename: archive.read(member) for member in archive.infolist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    assert path.stat().st_size < 1 << 14


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("expanded", "larger than the file"),
        ("meta", "no plain array"),
        ("sparse", "no plain array"),
        ("compressed", "compressed"),
    ],
)
def test_tensors_larger_than_the_file(tmp_path, kind, expected):
    hostile_tensors(kind, tmp_path / "odd.pth")
    before_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_refused(tmp_path / "odd.pth", expected)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kilobytes < 100_000


@needs_shared
@pytest.mark.parametrize("file", ["blocks", "bott", "deep", "esckey", "float", "inf", "o5", "width"])
def test_handed_configurations(file):
    assert_refused(SHARED / "cases" / "hostile" / f"cfg_{file}.safetensors", "configuration")


@needs_shared
@pytest.mark.parametrize("file", ["esckey.pth", "huge_1024.pth"])
def test_handed_pickles(file):
    assert_refused(SHARED / "cases" / "hostile" / file)


def test_unwritable_target(model, tmp_path):
    with pytest.raises(OutputError):
        save_checkpoint(model, tmp_path / "no such folder" / "own.safetensors")


def test_nothing_half_written_when_the_disk_is_full(model, tmp_path, monkeypatch):
    path = tmp_path / "own.safetensors"
    save_checkpoint(model, path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(OverNet(CONFIG), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["realtime", "fast", "best"])
def test_a_bundled_network_by_its_name(name):
    import overnet
    from overnet.weights import bundled_checkpoint

    model = overnet.load_model(name)
    expected = load_checkpoint(bundled_checkpoint(name)).state_dict()
    assert not model.training
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())


def test_a_model_of_no_such_name(small_checkpoint):
    import overnet

    assert overnet.load_model(small_checkpoint).config == load_checkpoint(small_checkpoint).config
    with pytest.raises(CheckpointError, match=r"bset: neither a checkpoint nor one of realtime, fast, best; did"):
        overnet.load_model("bset")
