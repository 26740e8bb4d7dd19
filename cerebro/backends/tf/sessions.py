"""Sessions: a unit's start in one, what is fetched from it, and the short one for a check."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from cerebro.backends import finite
from cerebro.backends.base import user_code
from cerebro.backends.tf.analysis import ancestors
from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.host_memory import HostMemory, State
from cerebro.backends.tf.runtime import tf, v1
from cerebro.backends.tf.session_guard import SessionGuard


class StepLimit(tf.errors.OutOfRangeError):  # type: ignore[misc]  # it has no types
    """The input's end, as far as `train_fn` can tell; raised by a `ShortSession`."""

    def __init__(self, steps: int) -> None:
        super().__init__(None, None, f"end of the input: this unit was limited to {steps} steps")


class UnitSession(v1.Session):  # type: ignore[misc]
    """A session that knows whether its last step found the end of the input: `exhausted`.

    Inside a block of `guarded` it looks at what is run, before it is. Where `to_record` names
    tensors, `recorded` are their values in the first step that computes all of them.
    """

    exhausted = False
    recorded: list[Any] | None = None
    _to_record: Sequence[tf.Tensor] = ()
    _without: set[tuple[str, ...]]

    def __init__(self, unit: UnitGraph, config: Any) -> None:
        super().__init__(graph=unit.graph, config=config)
        self._unit_guard = SessionGuard(unit)
        self._is_guarded = False

    @contextlib.contextmanager
    def guarded(self, *, untrained: bool) -> Iterator[SessionGuard]:
        """Have a `SessionGuard` look at what runs in the block, a unit's `train_fn`."""
        self._unit_guard.start(untrained=untrained)
        self._is_guarded = True
        try:
            yield self._unit_guard
        finally:
            self._is_guarded = False

    def run(
        self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None
    ) -> Any:
        self._look_at(fetches, feed_dict)
        self.exhausted = False
        try:
            if self._to_record and self._computes_all(fetches):
                also = self._to_record
                result, values = super().run([fetches, also], feed_dict, options, run_metadata)
                self._to_record, self.recorded = (), values
                return result
            return super().run(fetches, feed_dict, options, run_metadata)
        except tf.errors.OutOfRangeError:
            self.exhausted = True
            raise

    def partial_run_setup(self, fetches: Any, feeds: Any = None) -> Any:
        self._look_at(fetches, feeds)
        return super().partial_run_setup(fetches, feeds)

    def make_callable(
        self, fetches: Any, feed_list: Any = None, accept_options: bool = False
    ) -> Any:
        self._look_at(fetches, feed_list)
        return super().make_callable(fetches, feed_list, accept_options)

    def _look_at(self, fetches: Any, feeds: Any) -> None:
        if self._is_guarded:
            self._unit_guard.check(fetches, feeds)

    def to_record(self, tensors: Sequence[tf.Tensor]) -> None:
        """Note the values that these tensors have in a step to come; none of them: no longer."""
        self._to_record, self.recorded, self._without = list(tensors), None, set()

    def _computes_all(self, fetches: Any) -> bool:
        """Whether a step computes all that is to be recorded, so that to fetch it adds nothing."""
        names = {str(getattr(item, "name", item)) for item in tf.nest.flatten(fetches)}
        key = tuple(sorted(names))
        if key in self._without:
            return False
        try:
            found = [self.graph.as_graph_element(name) for name in names]
        except (KeyError, ValueError, TypeError):
            found = []
        computed = set(ancestors([getattr(item, "op", item) for item in found]))
        if all(tensor.op in computed for tensor in self._to_record):
            return True
        self._without.add(key)
        return False


class ShortSession(UnitSession):
    """A session whose input seems to end after `steps` steps.

    A step is a `run` that fetches the train step or, when validating, the loss or the error. Of
    each step `losses` and `errors` keep the values.
    """

    def __init__(self, unit: UnitGraph, config: Any, steps: int) -> None:
        super().__init__(unit, config)
        self._values = (unit.loss, unit.error)
        step = unit.train_step
        self._counted = {item.name for item in (self._values if step is None else (step,))}
        self._steps = steps
        self.losses: list[float] = []
        self.errors: list[float] = []

    def run(
        self, fetches: Any, feed_dict: Any = None, options: Any = None, run_metadata: Any = None
    ) -> Any:
        wanted = {getattr(item, "name", item) for item in tf.nest.flatten(fetches)}
        if self._counted.isdisjoint(wanted):
            return super().run(fetches, feed_dict, options, run_metadata)
        if len(self.losses) == self._steps:
            raise StepLimit(self._steps)
        fetched, values = super().run([fetches, self._values], feed_dict, options, run_metadata)
        self.losses.append(float(values[0]))
        self.errors.append(float(values[1]))
        return fetched

    def means(self) -> tuple[float, float]:
        """The mean loss and error of the steps that ran."""
        return float(np.mean(self.losses)), float(np.mean(self.errors))


def initialise(session: v1.Session, unit: UnitGraph, names: Collection[str]) -> None:
    """Give these variables their initial values."""
    if names:
        with user_code("model_fn"):
            session.run([unit.variables[name].initializer for name in names])


def assign(session: v1.Session, unit: UnitGraph, state: State) -> None:
    """Give the graph's variables the values of `state`, as far as it has them."""
    names = [name for name in unit.variables if name in state]
    session.run(
        [unit.assignments[name] for name in names],
        {unit.values[name]: state[name] for name in names},
    )


def prepare(session: v1.Session, unit: UnitGraph) -> None:
    """Start local variables, tables and the iterators among their initialisers afresh."""
    with user_code("model_fn"):
        session.run(unit.prepare)


def values(session: v1.Session, unit: UnitGraph, names: Collection[str]) -> dict[str, Any]:
    """The values of some variables, by name."""
    return dict(session.run({name: unit.variables[name] for name in names})) if names else {}


def fetch(session: v1.Session, unit: UnitGraph, memory: HostMemory) -> State:
    """The values of all global variables, copied."""
    return memory.copy(session.run(dict(unit.variables)))


def weights_are_finite(state: State, unit: UnitGraph) -> bool:
    """Tell whether a state that was fetched holds finite weights; slots do not count."""
    variables = unit.graph.get_collection(v1.GraphKeys.TRAINABLE_VARIABLES)
    trained = {variable.op.name for variable in variables}.intersection(state)
    others = state.keys() - trained - unit.slots
    return finite.weights_are_finite(
        (state[name] for name in trained), (state[name] for name in others)
    )
