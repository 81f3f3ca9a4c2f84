"""Ctrl-C and the signals that ask a program to end: both end a command in one line, with the signal's exit code."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class StoppedError(KeyboardInterrupt):
    """The program was asked to end, by the signal `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class _Heeding:
    active = False
    received: int | None = None


def heed_signals() -> None:
    """Inside `stoppable`: heed signals again, for instance after a library has put handlers of its own in place."""
    if _Heeding.active and threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            # A program started by `nohup` is not to end with its terminal.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, stop)


def received() -> int:
    """The signal that came; SIGINT where an interruption was raised without one."""
    return _Heeding.received or signal.SIGINT


def stop(number: int, _: FrameType | None = None) -> NoReturn:
    """End the program as the signal `number` asks: by `StoppedError`, or at once if one came before."""
    if _Heeding.received is not None:
        print("stopped at once", file=sys.stderr, flush=True)
        os._exit(128 + number)
    _Heeding.received = number
    raise StoppedError(number)


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside the block, a signal that asks this program to end raises `StoppedError` in the main thread.

    A second one ends the program at once. Afterwards signals do what they did before.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    _Heeding.active, _Heeding.received = True, None
    heed_signals()
    try:
        yield
    finally:
        _Heeding.active = False
        for number, handler in before.items():
            signal.signal(number, handler)
