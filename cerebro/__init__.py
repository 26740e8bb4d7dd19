"""Model selection for deep learning by model hopper parallelism, on a cluster with a shared folder.

    import cerebro

    with cerebro.LocalCluster(2) as cluster:
        result = cerebro.schedule(cluster, train, valid, None, None, input_fn, model_fn, train_fn,
                                  configurations, eval_fn, ckpt_root="checkpoints")
    result.best()

Importing this package loads neither TensorFlow nor pandas, and changes no setting of theirs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cerebro.renamed import install as _install_old_names
from cerebro.version import __version__

_install_old_names()

if TYPE_CHECKING:
    from cerebro import errors, search
    from cerebro.data import Catalog
    from cerebro.driver.check import check
    from cerebro.driver.schedule import schedule
    from cerebro.errors import CerebroError
    from cerebro.local_cluster import LocalCluster
    from cerebro.results.plain_models import load_model
    from cerebro.results.result import Best, Result, load

_HOMES = {
    "Best": "cerebro.results.result",
    "Catalog": "cerebro.data",
    "CerebroError": "cerebro.errors",
    "LocalCluster": "cerebro.local_cluster",
    "Result": "cerebro.results.result",
    "check": "cerebro.driver.check",
    "load": "cerebro.results.result",
    "load_model": "cerebro.results.plain_models",
    "schedule": "cerebro.driver.schedule",
}

__all__ = [
    "Best",
    "Catalog",
    "CerebroError",
    "LocalCluster",
    "Result",
    "__version__",
    "check",
    "errors",
    "load",
    "load_model",
    "schedule",
    "search",
]

if not TYPE_CHECKING:  # type checkers would take it that every name exists

    def __getattr__(name: str) -> Any:
        if name in _HOMES:
            return getattr(import_module(_HOMES[name]), name)
        if name in ("errors", "search"):
            return import_module(f"cerebro.{name}")
        raise AttributeError(f"module 'cerebro' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
