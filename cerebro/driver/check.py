"""Trying every configuration in this process, before a search is started."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cerebro import machine
from cerebro.backends import check_backend, check_training, handler_class
from cerebro.backends.base import Handler, Options, UnitTask, UserFunctions
from cerebro.driver import argument_checks
from cerebro.errors import ConfigurationError
from cerebro.formatting import for_stream
from cerebro.journal.run_plan import hyperparameters
from cerebro.validation import integer

STEPS = 2
"""Steps of training and validation that are tried, where the backend can tell steps apart."""


def check(
    input_fn: Callable[..., Any],
    model_fn: Callable[..., Any],
    train_fn: Callable[..., Any] | None,
    configs: Sequence[Mapping[str, Any]],
    path: str,
    *,
    backend: str = "tf",
    seed: int = 0,
    error_metric: str | None = None,
) -> None:
    """Try every configuration on the partition `path`, in this process, so that debuggers work.

    Each is built, trained for two steps, saved, built again, restored and validated; a line is
    printed for each, and nothing is returned. The functions, `backend`, `error_metric` and `seed`,
    an integer, are those of `schedule`; `configs` are what is `initial_msts` there.

    Raises an `InputError` for what is wrong with the arguments. The first error of a configuration
    is raised as it is: a `UserFunctionError` names the function, and its `__cause__` is what the
    function raised.
    """
    plain = argument_checks.check_configs(configs, "configs")
    if not plain:
        raise ConfigurationError("configs is empty: give at least one configuration")
    check_training(check_backend(backend), train_fn, error_metric)
    given = {"input_fn": input_fn, "model_fn": model_fn, "train_fn": train_fn}
    argument_checks.check_functions(given, optional=("train_fn",))
    seed = integer("seed", seed)
    functions = UserFunctions(input_fn, model_fn, train_fn, error_metric)
    handler = handler_class(backend).for_check(
        functions, Options(threads=machine.available_threads()), STEPS
    )
    try:
        data = handler.load(os.fspath(path), seed)
        for number, config in enumerate(plain):
            _check_one(handler, data, path, number, hyperparameters(config), seed)
    finally:
        handler.close()


def _check_one(
    handler: Handler, data: Any, path: str, number: int, config: dict[str, Any], seed: int
) -> None:
    def task(train: bool) -> UnitTask:
        own_seed = config.get("seed", seed)
        return UnitTask(number, 0, train, 0, os.fspath(path), config, own_seed)

    try:
        trained = handler.run(task(True), data, None)
    except Exception:
        _say(f"configuration {number} {config} failed:")
        raise
    with tempfile.TemporaryDirectory(prefix="cerebro-check-") as folder:
        state = handler.read(os.path.join(folder, handler.write(trained.state, folder)))
        size = sum(entry.stat().st_size for entry in os.scandir(folder))
    handler.forget(number)
    valid = handler.run(task(False), data, state)
    _say(
        f"configuration {number} {config}: train loss {trained.loss:.4g}, error "
        f"{trained.error:.4g}; saved {size / 1e6:.1f} MB, restored; valid loss {valid.loss:.4g}, "
        f"error {valid.error:.4g}"
    )


def _say(text: str) -> None:
    print(for_stream(text, sys.stderr), file=sys.stderr)
