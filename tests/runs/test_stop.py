"""Signals are noted, not raised."""

import os
import signal
import subprocess
import sys
import threading

from crl.runs.stop import StopRequest


def test_the_first_signal_is_noted_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        with stop:  # again
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGTERM and stop.name == "SIGTERM"
        assert signal.getsignal(signal.SIGTERM) == stop.note
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_have_no_signals():
    seen = []

    def run():
        with StopRequest() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]


def test_the_second_ends_the_process_even_inside_a_clean_up():
    """An exception out of a handler would be swallowed in __del__."""
    code = (
        "import os, signal\n"
        "from crl.runs.stop import StopRequest\n"
        "class Dying:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "with StopRequest():\n"
        "    Dying()\n"
        "    print('still here')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 130 and "still here" not in result.stdout
    assert "stopped at once" in result.stderr and "Traceback" not in result.stderr
