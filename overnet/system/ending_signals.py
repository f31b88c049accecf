"""The signals that end a run as Ctrl-C does."""

from __future__ import annotations

import signal


def ending_signals() -> list[signal.Signals]:
    """Return SIGINT (Ctrl-C), SIGTERM and SIGHUP (a closed terminal), which Windows does not have and nohup ignores."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
