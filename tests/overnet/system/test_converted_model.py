"""The cache of converted models."""

import os

import pytest

from overnet.errors import OutputError
from overnet.system import converted_model
from overnet.system.converted_model import own_model
from tests.support.foreign_networks import write_onnx


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
@pytest.mark.parametrize("which", ["models", "one model"])
def test_conversions_that_others_may_write_are_refused(tmp_path, monkeypatch, which):
    """What lies there under the conversion's name would be run as the model."""
    model = tmp_path / "a.onnx"
    write_onnx(model, "compact")
    monkeypatch.setenv("OVERNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(converted_model, "_converted", lambda model, *_: model)
    assert own_model(model) == model
    models = tmp_path / "cache" / "models"
    open_to_all = models if which == "models" else models / converted_model._name(model)
    open_to_all.mkdir(exist_ok=True)
    open_to_all.chmod(0o777)
    with pytest.raises(OutputError, match=f"{open_to_all.name}: other users may write there, and a conversion"):
        own_model(model)
