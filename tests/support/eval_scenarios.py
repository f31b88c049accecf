"""What tests of ``overnet eval`` run over the stand-in of the CUDA driver; see `tests.doubles`. No test itself."""

import io
import sys
from pathlib import Path
from unittest import mock

import typer

from overnet.cli.common import PLAIN
from overnet.cli.eval import evaluate_command
from overnet.cli.plain_help import SeveralValuesCommand
from overnet.export.engine.engine_graph import with_means
from overnet.runtime.backends.trt import engines
from tests.doubles.engines import write_engine


class Terminal(io.StringIO):
    """Says that it is one, and keeps what is written to it."""

    def isatty(self):
        return True


def said_while_building(model, data, folder, options, on_terminal):
    """Measure a set with an ONNX file by engines, which are "built" in three steps; what comes on stderr."""
    built = []

    def build(wish, *, device, on_progress, on_note, unusable_sha256):
        built.append(wish)
        on_note("another process builds this engine; waiting")
        for done in (1, 2, 3):
            on_progress("choosing kernels", done, 3)
        path = Path(folder) / f"{len(built)}.engine"
        return write_engine(path, with_means(Path(model).read_bytes()), wish.profile)

    app = typer.Typer(**PLAIN)
    app.command(cls=SeveralValuesCommand)(evaluate_command)
    arguments = ["--data", data, "--model", model, "--backend", "tensorrt", *options]
    stderr = Terminal() if on_terminal else io.StringIO()
    with mock.patch.object(engines, "cached_engine", build), mock.patch.object(sys, "stderr", stderr):
        typer.main.get_command(app).main(arguments, standalone_mode=False)
    assert built, "no engine was asked for"
    return stderr.getvalue()
