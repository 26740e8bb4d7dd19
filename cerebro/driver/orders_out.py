"""From the scheduler's actions to orders for workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cerebro.driver.workers import Workers
from cerebro.hopper import events as ev
from cerebro.hopper.units import Attempt, Split
from cerebro.journal.ledger import Ledger
from cerebro.journal.paths import RunPaths
from cerebro.journal.run_plan import hyperparameters
from cerebro.progress import Reporter
from cerebro.protocol.messages import Item, Method, UnitOrder


class OrdersOut:
    """Words orders, and sends them to the workers that they are for.

    `has_started` says whether an attempt was ever started.
    """

    def __init__(
        self,
        *,
        workers: Workers,
        ledger: Ledger,
        paths: RunPaths,
        generation: int,
        progress: Reporter,
    ) -> None:
        self.has_started = False
        self._workers = workers
        self._ledger = ledger
        self._plan = ledger.the_plan
        self._paths = paths
        self._generation = generation
        self._progress = progress

    def effect_of(self, action: ev.Action) -> Callable[[], None] | None:
        """What sends the order that an action asks for; None where it asks for none."""
        if isinstance(action, ev.Start):
            return lambda: self._start(action.attempt)
        if isinstance(action, ev.Stage):
            order = self._unit_order(action.attempt).to_json()
            worker = action.attempt.worker
            return lambda: self._workers.send(worker, Method.STAGE, order=order)
        if isinstance(action, ev.Unstage):
            worker, number = action.attempt.worker, action.attempt.number
            return lambda: self._workers.send(worker, Method.UNSTAGE, attempt=number)
        if isinstance(action, ev.Preload):
            return lambda: self._preload(action)
        if isinstance(action, ev.ModelFailed):
            return lambda: self.forget([action.model])
        return None

    def forget(self, models: Iterable[int]) -> None:
        """Have all workers drop what they keep for models that have ended."""
        ended = list(models)
        if ended:
            self._workers.send_all(Method.FORGET, models=ended)

    def path_of(self, split: Split, partition: int) -> str:
        """Where a partition lies."""
        return self._plan.partitions(split)[partition]

    def _start(self, attempt: Attempt) -> None:
        self.has_started = True
        order = self._unit_order(attempt).to_json()
        self._workers.send(attempt.worker, Method.START, order=order)

    def _unit_order(self, attempt: Attempt) -> UnitOrder:
        unit, model = attempt.unit, self._ledger.models[attempt.unit.model]
        writes = None
        if unit.split is Split.TRAIN:
            folder = self._paths.version(
                unit.model, attempt.reads + 1, self._generation, attempt.number
            )
            writes = str(folder)
        return UnitOrder(
            attempt=attempt.number,
            model=unit.model,
            epoch=unit.epoch,
            split=unit.split,
            partition=unit.partition,
            path=self.path_of(unit.split, unit.partition),
            config=hyperparameters(model.mst),
            seed=model.mst.get("seed", self._plan.seed),
            reads=model.checkpoint(attempt.reads),
            writes=writes,
        )

    def _preload(self, action: ev.Preload) -> None:
        self._workers.expect_load(action.worker)
        items = []
        if self._plan.keep_data:
            for split, partitions in ((Split.TRAIN, action.train), (Split.VALID, action.valid)):
                items += [Item(split, p, self.path_of(split, p)).to_json() for p in partitions]
        self._progress.loading(action.worker, len(items))
        self._workers.send(action.worker, Method.PRELOAD, items=items)
