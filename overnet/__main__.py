"""The programs, which ``python -m overnet`` runs as well, as ``torchrun -m overnet train`` needs.

Signals are handled before the commands are imported, which takes a quarter of a second.
"""

import atexit
import contextlib
import os
import signal
import sys
import threading
from functools import partial
from types import FrameType
from typing import NoReturn

from overnet.system.ending_signals import ending_signals

_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_IMPORTING = "<frozen importlib._bootstrap>"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Let SIGTERM, and SIGHUP of a closed terminal, end a run as Ctrl-C does: with a playable file.

    While a module is imported, the process ends at once: a compiled module would turn a KeyboardInterrupt into another
    error. Where a file is being written, which has to be removed, that is done all the same.
    """
    files = getattr(sys.modules.get("overnet.files.atomic"), "TemporaryFile", None)
    if files is None or not files.open_paths:
        while frame is not None:
            if frame.f_code.co_filename == _IMPORTING:
                with contextlib.suppress(OSError):  # it cannot be written
                    os.write(2, b"overnet: interrupted\n")
                os._exit(_INTERRUPTED)
            frame = frame.f_back
    raise KeyboardInterrupt


def run_program(prog: str = "overnet") -> NoReturn:
    """Run the command line of the program `prog`, and end this process with its exit code."""
    for number in ending_signals():
        signal.signal(number, _interrupt)
        # What is registered first is called last, before Python gives up its handlers and unloads modules. For tenths
        # of a second after all is written, a signal would end the process by itself.
        atexit.register(signal.signal, number, signal.SIG_IGN)
    # A file that took the number of a closed standard stream would receive what libraries print.
    nothing = os.open(os.devnull, os.O_RDWR)
    while nothing < 3:
        nothing = os.dup(nothing)
    os.close(nothing)
    from overnet.cli import main

    code = main(prog=prog, owns_process=True)
    for number in ending_signals():
        signal.signal(number, lambda *_: os._exit(code))  # all is written
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries, and reports, it again at exit
    is_at_work = any(thread.daemon and thread.name.startswith("overnet-") for thread in threading.enumerate())
    if is_at_work or "gradio" in sys.modules:
        # A thread waits for a server, or computes: libraries are not to be unloaded meanwhile. Gradio's take seconds.
        with contextlib.suppress(OSError, AttributeError):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


# The entry points of the programs that are one command.
main_run, main_export, main_bench = (partial(run_program, f"overnet-{name}") for name in ("run", "export", "bench"))

if __name__ == "__main__":
    run_program()
