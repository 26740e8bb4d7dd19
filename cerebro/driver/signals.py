"""Ctrl-C, SIGTERM and a terminal that is closed, while a driver runs."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

from cerebro.driver.loop import Driver


@contextlib.contextmanager
def interruptible(driver: Driver) -> Iterator[None]:
    """Let signals stop the run, between two of its rounds, in the main thread.

    SIGHUP, which a closed terminal sends, does so too, unless it is ignored (`nohup`).

    Python runs a handler when the main thread next does something, and a signal that another
    thread receives does not end its waiting: so the signal's byte wakes it, through a thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def pass_on() -> None:
        while ours.recv(64):
            driver.wake()

    waker = threading.Thread(target=pass_on, name="signals", daemon=True)
    waker.start()
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, lambda *_: driver.interrupt()) for number in numbers]
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        theirs.close()
        waker.join()
        ours.close()
