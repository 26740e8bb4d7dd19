"""The TensorFlow backend: V1 graphs.

`model_fn(data, config) -> (optimizer, loss, error)`, and `train_fn(session, train_step, loss,
error, train=True) -> (loss, error)` or `(loss, error, examples)`.

Where random numbers come from, so that a unit gives the same bits wherever and however often it
runs (see `cerebro.seeding`):

- Python's and NumPy's generators are seeded before `input_fn` by ("input", path), before every
  call of `model_fn` by ("init", model), before every `train_fn` by ("unit", model, epoch, split,
  partition). What `model_fn` draws in Python while it builds is thus part of the model: the same
  at every build. What a generator or a `numpy_function` draws while training is the unit's.
- A graph's seed is ("init", model) where its initial values are used. A graph that draws
  random numbers apart from them is then built again with the unit's seed for each unit, so that
  dropout and shuffling change from epoch to epoch, and initial weights do not depend on them.
  TensorFlow derives an op's seed from the number of ops made before: initial weights are
  the same on all partitions as long as `model_fn` makes the same ops for each.
- A graph without random numbers does not depend on its seed. It is built once for a model,
  partition and split, and kept. Its session is kept too, if `analysis.can_restart`.

So a `model_fn` must not bind what a unit uses up: `tf.data.Dataset.from_generator` takes a
function that starts afresh, not an iterator that is exhausted after one epoch.
"""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from cerebro.backends.base import (
    Handler,
    Options,
    UnitRun,
    UnitTask,
    UserFunctions,
    timed,
    user_code,
)
from cerebro.backends.probe import Prover, read_probe, remove_probe, write_probe
from cerebro.backends.returns import train_result
from cerebro.backends.tf import global_step, graphs, private, probing, runtime, sessions
from cerebro.backends.tf.checkpoint import CheckpointWriter, read_state
from cerebro.backends.tf.datasets import disable_autotuning
from cerebro.backends.tf.error_hints import with_hint
from cerebro.backends.tf.graph_cache import CachedGraph, GraphCache
from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.host_memory import HostMemory, State
from cerebro.backends.tf.runtime import tf, v1
from cerebro.backends.tf.state_check import missing_slots
from cerebro.errors import UserFunctionError
from cerebro.seeding import derive, kept_generators, seed_generators

_UNTRAINED = (
    "train_fn did not run train_step in the session that it was given. What another session trains "
    "is lost at the end of the unit: the model's values are read from the one that was given."
)


class TensorFlowHandler(Handler):
    """Trains TensorFlow V1 graphs; a state is a dictionary of arrays by variable name.

    With `max_steps` it is a guest in the user's own process (see `for_check`): every unit ends
    after so many steps, as if its input were exhausted; nothing is kept between units; and
    TensorFlow's behaviour and the random generators are put back after each call.
    """

    def __init__(
        self, functions: UserFunctions, options: Options, max_steps: int | None = None
    ) -> None:
        super().__init__(functions, options)
        self._max_steps = max_steps
        self._config = runtime.session_config(options)
        self._writer = CheckpointWriter(options)
        self._kept = GraphCache()
        self._memory = HostMemory()
        self._prover = Prover()

    @classmethod
    def prepare_process(cls, options: Options) -> None:
        runtime.prepare_process(options)
        disable_autotuning()

    @classmethod
    def seed_process(cls, seed: int) -> None:
        seed_generators(seed)
        v1.set_random_seed(seed)

    @classmethod
    def for_check(cls, functions: UserFunctions, options: Options, steps: int) -> TensorFlowHandler:
        return cls(functions, options, max_steps=steps)

    def load(self, path: str, seed: int) -> Any:
        seed = derive(seed, "input", path)
        # Ops that input_fn makes stay out of the process's default graph, where they would pile up.
        with self._settings(), tf.Graph().as_default():
            seed_generators(seed)
            v1.set_random_seed(seed)
            with user_code("input_fn"):
                return self.functions.input_fn(path)

    def read(self, checkpoint: str) -> State:
        state = read_state(checkpoint)
        state.probe = read_probe(checkpoint)
        return state

    def write(self, state: State, directory: str) -> str:
        name = self._writer.write(state, directory)
        if state.probe is not None:
            write_probe(state.probe, directory)
        return name

    def recycle(self, state: State) -> None:
        self._memory.give_back(state)

    def run(self, task: UnitTask, data: Any, state: State | None) -> UnitRun:
        with self._settings():
            return self._run(task, data, state)

    def is_resource_error(self, error: BaseException) -> bool:
        return runtime.is_resource_error(error)

    def forget(self, model: int) -> None:
        self._kept.drop(model)
        # Graphs are full of reference cycles, and hold on to the data they were built on.
        gc.collect()

    def close(self) -> None:
        self._kept.clear()
        self._writer.close()

    def devices(self) -> list[str]:
        return runtime.device_names(self.options)

    def _settings(self) -> AbstractContextManager[None]:
        return nullcontext() if self._max_steps is None else _guest()

    def _run(self, task: UnitTask, data: Any, state: State | None) -> UnitRun:
        key = (task.model, task.partition, task.train)
        phases = {"build": 0.0, "restore": 0.0, "run": 0.0, "fetch": 0.0}
        with timed(phases, "build"):
            entry, start = self._entry(task, data, state, self._kept.take(key))
        try:
            result = self._run_in(task, entry, start, state, phases)
            with timed(phases, "fetch"):
                self._keep(key, entry)
        except BaseException:
            entry.close()
            raise
        return result

    def _entry(
        self, task: UnitTask, data: Any, state: State | None, kept: CachedGraph | None
    ) -> tuple[CachedGraph, State | None]:
        """The graph to run, and the state to start from; None leaves it to the initialisers."""
        init = task.init_seed
        if kept is not None:
            if kept.is_for(data) and (state is not None or kept.unit.seed == init):
                return kept, state
            kept.close()
        unit = self._build(task, data, init if state is None else task.unit_seed)
        if state is None and unit.random:
            with self._session(unit) as session:
                seed_generators(init)
                sessions.initialise(session, unit, unit.variables)
                state = sessions.fetch(session, unit, self._memory)
            unit = self._build(task, data, task.unit_seed)
        return CachedGraph(unit, data), state

    def _build(self, task: UnitTask, data: Any, graph_seed: int) -> UnitGraph:
        seed_generators(task.init_seed)
        model_fn = self.functions.model_fn
        return graphs.build(
            model_fn,
            data,
            task.config,
            train=task.train,
            seed=graph_seed,
            pass_step=self.options.global_step,
        )

    def _session(self, unit: UnitGraph) -> sessions.UnitSession:
        if self._max_steps is not None:
            return sessions.ShortSession(unit, self._config, self._max_steps)
        return sessions.UnitSession(unit, self._config)

    def _run_in(
        self,
        task: UnitTask,
        entry: CachedGraph,
        state: State | None,
        given: State | None,
        phases: dict[str, float],
    ) -> UnitRun:
        unit = entry.unit
        with timed(phases, "restore"):
            to_initialise = list(unit.variables) if state is None else missing_slots(unit, state)
            if to_initialise:
                # Initialisers that have run in a session would continue in their random streams.
                entry.close()
            if entry.session is None:
                entry.session = self._session(unit)
            session = entry.session
            seed_generators(task.init_seed)
            if state is not None:
                sessions.assign(session, unit, state)
            sessions.initialise(session, unit, to_initialise)
            seed_generators(task.unit_seed)
            sessions.prepare(session, unit)
            followed = sessions.values(session, unit, unit.step.followed)
            places = self._prove(task, unit, session, given)
        with timed(phases, "run"), session.guarded(untrained=given is None) as guard:
            loss, error, examples = self._train(task, unit, session)
        entry.exhausted = session.exhausted
        if task.train and not guard.train_steps and not session.exhausted:
            print(_UNTRAINED, file=sys.stderr)  # into the model's log
        with timed(phases, "fetch"):
            new = sessions.fetch(session, unit, self._memory) if task.train else None
            if new is not None and places is not None:
                new.probe = probing.record(unit, session, task, places, self.options)
            session.to_record(())
        if followed and new is not None and guard.train_steps:
            changed = [name for name in followed if global_step.assigning(unit.variables[name])]
            global_step.check_counted(unit.step, followed, new, changed)
        if new is None:
            return UnitRun(loss, error, examples, None, phases)
        finite = partial(sessions.weights_are_finite, new, unit)
        return UnitRun(loss, error, examples, new, phases, finite=finite)

    def _prove(
        self, task: UnitTask, unit: UnitGraph, session: sessions.UnitSession, given: State | None
    ) -> list[str] | None:
        """Make sure that a model which was built here computes what it did where it was saved.

        `given` is the version that the unit starts from. Returns the places for the probe of the
        one that it makes; None if that needs none.
        """
        session.to_record(())
        if self._max_steps is not None or not task.train:
            # A graph to validate is another one than to train; only the latter is saved.
            return None
        probe, place = None if given is None else given.probe, self._prover.place(task.path)
        if probe is not None and self._prover.is_due(task, probe, place):
            probing.prove(probe, unit, session, task, self.options)
            self._prover.is_proven(probe, place)
        places = self._prover.places(task, given, probe, place)
        if places is not None:
            found = probing.computation(unit)
            session.to_record(() if isinstance(found, str) else found.inputs)
        elif probe is not None and not task.warm_start:
            remove_probe(probe)
        return places

    def _train(
        self, task: UnitTask, unit: UnitGraph, session: v1.Session
    ) -> tuple[float, float, float | None]:
        train_fn = self.functions.train_fn
        assert train_fn is not None
        with unit.graph.as_default(), session.as_default():
            try:
                with user_code("train_fn"):
                    returned = _call(train_fn, session, unit, task.train)
            except UserFunctionError as error:
                if isinstance(error.__cause__, sessions.StepLimit):
                    return (*session.means(), None)
                raise with_hint(error) from error.__cause__
        if private.is_closed(session):
            raise UserFunctionError(
                "train_fn closed the session, whose variables are still to be read: leave it open "
                "(`with session.as_default():` instead of `with session:`)",
                function="train_fn",
            )
        return train_result(returned)

    def _keep(self, key: tuple[int, int, bool], entry: CachedGraph) -> None:
        unit = entry.unit
        train_fn_added_ops = unit.graph.version != unit.size
        if unit.random or train_fn_added_ops or self._max_steps is not None:
            entry.close()
            return
        if not unit.restarts:
            entry.close()
        elif unit.iterators > entry.exhausted:
            # An input that train_fn left before its end would continue in the background and draw
            # from the generators that the next unit seeds.
            sessions.prepare(entry.session, unit)
        self._kept.put(key, entry)


@contextmanager
def _guest() -> Iterator[None]:
    """V1 behaviour in a process of the user's, and its random generators as they were after."""
    with kept_generators(), runtime.v1_behaviour():
        yield


def _call(train_fn: Callable[..., Any], session: v1.Session, unit: UnitGraph, train: bool) -> Any:
    arguments = (session, unit.train_step, unit.loss, unit.error)
    try:
        signature = inspect.signature(train_fn)
    except (TypeError, ValueError):
        return train_fn(*arguments, train=train)
    if _accepts(signature, *arguments, train=train):
        return train_fn(*arguments, train=train)
    if _accepts(signature, *arguments, train):
        return train_fn(*arguments, train)
    raise UserFunctionError(
        f"train_fn{signature} cannot be called as train_fn(session, train_step, loss, error, "
        "train=True): give it these five parameters",
        function="train_fn",
    )


def _accepts(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True
