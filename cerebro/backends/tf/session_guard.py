"""What `train_fn` runs in its session, looked at before it is run.

A model has its values when `train_fn` is called, from the unit before. An initializer, or a
checkpoint that is restored, would put others in their place, in each unit again: the model would
never be trained for longer than one, and nothing would show it. So both are refused.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable
from typing import Any

from cerebro.backends.tf import global_step
from cerebro.backends.tf.graphs import UnitGraph
from cerebro.backends.tf.runtime import tf
from cerebro.errors import UserFunctionError
from cerebro.formatting import some

SHOWN = 3

_ASSIGNS = ("Assign", "AssignVariableOp")

_LIBRARIES = tuple(
    os.path.dirname(os.path.abspath(path)) + os.sep
    for path in (os.path.dirname(os.path.dirname(__file__)), tf.__file__)
)


class SessionGuard:
    """Refuses what would take a unit's values, or its global step, from it.

    `train_steps` counts the runs of the train step since `start`.
    """

    def __init__(self, unit: UnitGraph) -> None:
        self._graph = unit.graph
        self._train_step = unit.train_step
        self._advancing = unit.step.advancing
        self._step = unit.step.passed
        self._by_op = {unit.variables[name].op: name for name in unit.trained}
        self._initializers = {unit.variables[name].initializer: name for name in unit.trained}
        self._initial = {
            name: op.inputs[1] for op, name in self._initializers.items() if op.type in _ASSIGNS
        }
        self._harmless: set[tf.Operation] = set()
        self._noted: dict[tf.Operation, list[tf.Operation]] = {}
        self.start(untrained=False)

    def start(self, *, untrained: bool) -> None:
        """A unit starts; `untrained` says that its model has never been trained."""
        self._may_restore = untrained
        self.train_steps = 0

    def check(self, fetches: Any, feeds: Any) -> None:
        """Raise `UserFunctionError` where running `fetches` would undo what was trained."""
        noted: dict[tf.Operation, None] = {}
        for op in self._ops(fetches):
            self.train_steps += op is self._train_step or op is getattr(self._train_step, "op", 0)
            noted.update(dict.fromkeys(self._reached(op)))
        if not noted:
            return
        initialised = {op: name for op in noted if (name := self._initialised_by(op))}
        if initialised:
            fed = {element.name for element in self._elements(feeds)}
            names = [
                name
                for op, name in initialised.items()
                if op.type not in _ASSIGNS or op.inputs[1].name not in fed
            ]
            if names:
                raise _refusal(
                    f"train_fn ran the initializer of {some(sorted(names), SHOWN)}: every unit "
                    "would start from initial values, and nothing would be learned. The model has "
                    "its values when train_fn is called: remove "
                    "tf.compat.v1.global_variables_initializer(), or what else initializes, from "
                    "train_fn (local variables and tables start anew in each unit by themselves)"
                )
        if any(op.type == "SaveV2" for op in noted):
            self._may_restore = True  # what this unit has saved itself
        restored = sorted(
            self._by_op[op.inputs[0].op]
            for op in noted
            if op not in initialised and global_step.restores(op)
        )
        if restored and not self._may_restore:
            raise _refusal(
                f"train_fn restored {some(restored, SHOWN)} from a checkpoint: every unit would "
                "start from it, and nothing would be learned. To start a model from a checkpoint, "
                "name it as init_ckpt_path in its configuration, or call "
                "tf.compat.v1.train.init_from_checkpoint in model_fn"
            )
        advancing = [op for op in noted if self._is_other_advance(op)]
        if advancing:
            raise _refusal(
                f"train_fn ran {advancing[0].name}, which changes the global step: each train step "
                "advances it already. Remove it from train_fn; or make that op in model_fn, and "
                "the train step leaves the global step alone"
            )

    def _initialised_by(self, op: tf.Operation) -> str | None:
        """The name of the trained variable to which an op assigns its initial value, if any."""
        if op in self._initializers:
            return self._initializers[op]
        name = self._by_op.get(op.inputs[0].op) if op.type in _ASSIGNS else None
        return name if name is not None and op.inputs[1] is self._initial.get(name) else None

    def _is_other_advance(self, op: tf.Operation) -> bool:
        return (
            self._step is not None
            and op not in self._advancing
            and global_step.assigns(op)
            and op in global_step.assigning(self._step)
        )

    def _ops(self, fetches: Any) -> Iterable[tf.Operation]:
        for element in self._elements(tf.nest.flatten(fetches, expand_composites=True)):
            yield element if isinstance(element, tf.Operation) else element.op

    def _elements(self, items: Any) -> Iterable[Any]:
        """The ops and tensors that are meant; what is neither is left to TensorFlow."""
        for item in items or ():
            try:
                yield self._graph.as_graph_element(item)
            except (TypeError, ValueError, KeyError):
                continue

    def _reached(self, fetched: tf.Operation) -> list[tf.Operation]:
        """The ops to be looked at among those that run with an op; found once for each."""
        if fetched in self._noted:
            return self._noted[fetched]
        noted, seen, waiting = [], set(), [fetched]
        while waiting:
            op = waiting.pop()
            if op in seen or op in self._harmless:
                continue
            seen.add(op)
            if self._is_noted(op):
                noted.append(op)
            waiting.extend(tensor.op for tensor in op.inputs)
            waiting.extend(op.control_inputs)
        if not noted:
            self._harmless |= seen
        self._noted[fetched] = noted
        return noted

    def _is_noted(self, op: tf.Operation) -> bool:
        if op.type == "SaveV2" or self._initialised_by(op):
            return True
        if global_step.restores(op):
            return op.inputs[0].op in self._by_op
        return self._is_other_advance(op)


def _refusal(message: str) -> UserFunctionError:
    frames = [f for f in traceback.extract_stack() if not f.filename.startswith(_LIBRARIES)]
    return UserFunctionError(
        message, function="train_fn", remote_traceback="".join(traceback.format_list(frames))
    )
