import signal

from overnet.system.ending_signals import ending_signals


def test_a_closed_terminal_ends_a_run_but_under_nohup(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        assert ending_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it to the process that it starts
        assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)
    monkeypatch.delattr(signal, "SIGHUP")  # Windows has none
    assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
