"""Errors of the driver for what failed on workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cerebro.errors import (
    CerebroError,
    RunFailed,
    UserFunctionError,
    error_class,
)
from cerebro.journal.ledger import Ledger


def user_error(message: str, details: Mapping[str, Any]) -> CerebroError:
    """An error for what a user's function did on a worker, of its own class where it is ours."""
    kind = error_class(details.get("error", "")) or UserFunctionError
    if issubclass(kind, UserFunctionError):
        return kind(
            f"{message}\n{details.get('traceback', '')}".rstrip(),
            function=details.get("function", ""),
            remote_traceback=details.get("traceback", ""),
            output=details.get("output", ""),
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
