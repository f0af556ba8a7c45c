"""SIGINT and SIGTERM as a wish to stop, which is noted at once and granted where a run can be taken up again."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

#: exit code of a process that was asked to stop
STOPPED = 130
#: environment variable: the name of a file that pauses runs while it is there
PAUSE_FILE = "CRL_PAUSE_FILE"


def wait_while_paused(stopped: Callable[[], bool] = lambda: False) -> float:
    """
    As long as the file that :data:`PAUSE_FILE` names is there.

    :param stopped: asked now and then whether to wait no longer
    :return: seconds waited
    """
    name = os.environ.get(PAUSE_FILE)
    if not name or not os.path.exists(name):
        return 0.0
    began = time.monotonic()
    while os.path.exists(name) and not stopped():
        time.sleep(0.2)
    return time.monotonic() - began


class StopRequest:
    """
    Listens while it is entered: the first signal is noted in :attr:`signal`, the second ends the process at once.

    Python's own way, an exception out of the handler, is lost when the signal falls into a clean-up (of an import, say).
    Entering twice is allowed. In other threads than the main one, where Python gives no signals, it stays quiet.
    """

    def __init__(self) -> None:
        #: number of the signal that came; None before
        self.signal: int | None = None
        self._entered = 0
        self._old_handlers: dict[int, Any] = {}

    @property
    def name(self) -> str:
        """Of the signal, for a message."""
        return "no signal" if self.signal is None else signal.Signals(self.signal).name

    def __enter__(self) -> StopRequest:
        self._entered += 1
        if self._entered == 1 and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old_handlers[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._entered -= 1
        if self._entered == 0:
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            self._old_handlers = {}

    def note(self, number: int, frame: FrameType | None = None) -> None:
        """The handler."""
        if self.signal is None:
            self.signal = number
            return
        # runs may be killed at any moment: nothing is lost by leaving without ceremony, but a hidden cursor
        show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""
        words = f"{show_cursor}\ncrl: stopped at once; 'crl resume' goes on from a run's last checkpoint\n"
        os.write(2, words.encode())
        os._exit(STOPPED)
