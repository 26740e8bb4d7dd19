"""What kind of failure an error is, and how it is described to the driver."""

from __future__ import annotations

import errno
import traceback

from cerebro.backends.base import chain
from cerebro.errors import CerebroError, UserFunctionError
from cerebro.formatting import message_of, readable
from cerebro.hopper.units import Failure
from cerebro.protocol.messages import Problem
from cerebro.shipping import with_users_files
from cerebro.worker.output_capture import OutputCapture, clip, last_lines

MOMENTARY = frozenset(
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "EREMOTEIO"
    )
    if hasattr(errno, name)
)  # fmt: skip
"""Errors of storage that is not reached, rather than of a path that is wrong."""


MESSAGE_CHARACTERS = 4_000
TRACEBACK_CHARACTERS = 40_000
"""What of an error travels: its start and its end."""


def is_momentary(error: BaseException) -> bool:
    """Whether an error, or one that it was raised from, is of storage that is not reached."""
    return any(isinstance(link, OSError) and link.errno in MOMENTARY for link in chain(error))


class OutOfResources(Exception):
    """Memory or a device gave out: what this process holds of it is to be given back."""


class UnitFailure(Exception):
    def __init__(self, failure: Failure, error: BaseException) -> None:
        super().__init__(str(error))
        self.failure = failure
        self.error = error


def describe(error: BaseException, output: OutputCapture | None = None) -> Problem:
    """Describe an error to the driver, with what was printed before it.

    An error of this library that a user's function let through keeps its own class.
    """
    if isinstance(error, UserFunctionError):
        text, function = error.remote_traceback, error.function
    else:
        text, function = "".join(traceback.format_exception(error)), ""
    raised = type(error) is UserFunctionError and isinstance(error.__cause__, CerebroError)
    inner = (error.__cause__ or error) if raised else error
    message = message_of(inner)
    if not isinstance(inner, CerebroError):
        message = f"{type(inner).__name__}: {message}"
    return Problem(
        message=clip(with_users_files(message), MESSAGE_CHARACTERS),
        error=type(inner).__name__,
        function=function,
        traceback=clip(with_users_files(readable(text)), TRACEBACK_CHARACTERS),
        output="" if output is None else with_users_files(last_lines(output.text())),
    )
