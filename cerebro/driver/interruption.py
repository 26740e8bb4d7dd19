"""The user's wish to stop a run: heard at any moment, obeyed between two rounds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class Interruption:
    """Whether the run is to stop. `ask` is for signal handlers; all else is the loop's."""

    def __init__(self) -> None:
        self._asked = False
        self._immediate = False
        self._woken = threading.Event()

    def ask(self) -> None:
        """Have `check` raise `KeyboardInterrupt`.

        A second call, or one within `immediate`, raises at once.
        """
        if self._asked or self._immediate:
            raise KeyboardInterrupt
        self._asked = True

    def wake(self) -> None:
        """End `pause` early if the run is to stop. Any thread."""
        self._woken.set()

    def check(self) -> None:
        """Raise `KeyboardInterrupt` if the run is to stop."""
        if self._asked:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def immediate(self) -> Iterator[None]:
        """While the user's code runs in this process, which can be stopped at any point.

        Where an error leaves the block, the run ends: it remains so while that is cleaned up.
        """
        self._immediate = True
        yield
        self._immediate = False

    def pause(self, seconds: float) -> None:
        """Wait, for as long as the run is not to stop; then raise `KeyboardInterrupt`."""
        expires = time.monotonic() + seconds
        while (left := expires - time.monotonic()) > 0 and not self._asked:
            self._woken.wait(left)
            self._woken.clear()
        self.check()
