import pytest

from overnet.errors import require


def test_ctrl_c_while_a_compiled_module_is_loaded(tmp_path, monkeypatch):
    """Such a module reports it as an ImportError, which is not to be taken for a missing library."""
    (tmp_path / "half_loaded.py").write_text(
        "try:\n    raise KeyboardInterrupt\n"
        "except KeyboardInterrupt as error:\n    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        require("half_loaded", extra="", purpose="testing")
