"""What user code leaves behind in the executor that would hit the units after it."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@contextlib.contextmanager
def no_timer_left() -> Iterator[None]:
    """Disarm the timers that the block leaves armed (`signal.alarm`, `signal.setitimer`).

    Their signal would come while another model's unit runs, which it ends. Timers that were armed
    before stay.
    """
    idle = [timer for timer in _TIMERS if signal.getitimer(timer)[0] == 0]
    try:
        yield
    finally:
        for timer in idle:
            signal.setitimer(timer, 0)
