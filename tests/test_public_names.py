"""The names that users may import, frozen."""

from __future__ import annotations

import inspect

import cerebro
from cerebro import errors
from cerebro.standalone import standalone_schedule


def test_the_packages_names():
    assert cerebro.__all__ == [
        "Best", "Catalog", "CerebroError", "LocalCluster", "Result", "__version__", "check",
        "errors", "load", "load_model", "schedule", "search",
    ]  # fmt: skip
    for name in cerebro.__all__:
        assert getattr(cerebro, name) is not None
    assert standalone_schedule is cerebro.schedule


def test_schedules_positional_parameters_are_the_originals():
    parameters = inspect.signature(cerebro.schedule).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [
        "worker_ips", "train_partitions", "valid_partitions", "train_availability",
        "valid_availability", "input_fn", "model_fn", "train_fn", "initial_msts", "mst_eval_fn",
        "ckpt_root", "preload_data_to_mem", "backend",
    ]  # fmt: skip
    assert [p.default for p in positional[10:]] == ["/tmp", True, "tf"]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters if p not in positional)


def test_the_tree_of_errors_is_as_drawn():
    """Every class in the module stands in its drawing, below the class it inherits from."""
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        words = line.replace("├──", "").replace("└──", "").replace("│", " ").split()
        if not words or not inspect.isclass(getattr(errors, words[0], None)):
            continue
        depth = line.index(words[0])
        while path and path[-1][0] >= depth:
            path.pop()
        drawn[words[0]] = path[-1][1] if path else "Exception"
        path.append((depth, words[0]))
    classes = {
        name: cls
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, errors.CerebroError)
    }
    assert drawn == {name: cls.__bases__[0].__name__ for name, cls in classes.items()}
