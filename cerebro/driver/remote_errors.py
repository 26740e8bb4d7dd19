"""Errors of the driver for what failed on workers."""

from __future__ import annotations

from cerebro.errors import (
    CerebroError,
    RunFailed,
    UserFunctionError,
    error_class,
)
from cerebro.journal.ledger import Ledger
from cerebro.protocol.messages import Problem


def user_error(message: str, problem: Problem) -> CerebroError:
    """An error for what a user's function did on a worker, of its own class where it is ours."""
    kind = error_class(problem.error) or UserFunctionError
    if issubclass(kind, UserFunctionError):
        return kind(
            f"{message}\n{problem.traceback}".rstrip(),
            function=problem.function,
            remote_traceback=problem.traceback,
            output=problem.output,
        )
    return kind(message)


def all_failed(ledger: Ledger) -> RunFailed | None:
    """The error for a run in which no model got through, or None."""
    failures = [m.failure for m in ledger.models.values() if m.failure is not None]
    if len(failures) < len(ledger.models) or not failures:
        return None
    first = failures[0]
    return RunFailed(
        f"every model failed; the first, model {first.model}: {first.message}\n"
        f"{first.traceback}".rstrip()
    )
