"""A cluster without hardware: the scheduler's actions carried out on simulated time.

Used to test the scheduler under every interleaving and to measure what a placement costs. All
randomness comes in through the arguments; time is a number.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cerebro.hopper import events as ev
from cerebro.hopper.attempt_states import Slot
from cerebro.hopper.scheduler import Scheduler
from cerebro.hopper.units import Attempt, Split

Duration = Callable[[Attempt], float]


@dataclass
class Visit:
    """One attempt that counted: when it ran, in simulated seconds."""

    attempt: Attempt
    start: float
    end: float


@dataclass
class Simulation:
    """A run on simulated time.

    `run_seconds` gives how long an attempt runs, `save_seconds` how long its version takes to be
    published, `load_seconds` how long a worker loads its partitions. `decide` answers an `Ask`.
    `outcome` may turn an attempt's end into another event (a failure, say). `observe` sees every
    batch of events with the actions they gave.
    """

    scheduler: Scheduler
    run_seconds: Duration
    decide: Callable[[ev.Ask], ev.Decided]
    save_seconds: Duration = lambda _: 0.0
    load_seconds: Callable[[int], float] = lambda _: 0.0
    outcome: Callable[[Attempt, ev.Event], ev.Event] = lambda _, event: event
    observe: Callable[[tuple[ev.Event, ...], list[ev.Action]], None] = lambda _, __: None
    now: float = 0.0
    visits: list[Visit] = field(default_factory=list)
    actions: int = 0
    _calendar: list[tuple[float, int, ev.Event]] = field(default_factory=list)
    _entries: int = 0
    _started: dict[int, tuple[Attempt, float]] = field(default_factory=dict)
    _saving: dict[int, int] = field(default_factory=dict)
    _held_back: list[ev.Event] = field(default_factory=list)

    def at(self, seconds: float, event: ev.Event) -> None:
        """Let `event` happen `seconds` from now."""
        self._entries += 1
        heapq.heappush(self._calendar, (self.now + seconds, self._entries, event))

    def run(self, workers: Iterable[int]) -> None:
        """Let the workers join, and run until nothing is left to happen."""
        for worker in workers:
            self.at(0.0, ev.WorkerJoined(worker))
        self._carry_out((), self.scheduler.start(self.now))
        while self._calendar and not self.scheduler.ended:
            events = self._next_events()
            if not events:
                continue
            self._carry_out(tuple(events), self.scheduler.handle(*events, now=self.now))
            for held_back in self._held_back:
                self.at(0.0, held_back)
            self._held_back.clear()

    def _next_events(self) -> list[ev.Event]:
        """Take all events of the next moment, with the versions that are saved in no time."""
        events: list[ev.Event] = []
        self.now = self._calendar[0][0]
        while self._calendar and self._calendar[0][0] <= self.now:
            event = heapq.heappop(self._calendar)[2]
            if self._saver_is_busy(event):
                self._held_back.append(event)
                continue
            events.append(event)
            if isinstance(event, ev.UnitRan):
                events.extend(self._save(event.attempt))
        return events

    def _carry_out(self, events: tuple[ev.Event, ...], actions: list[ev.Action]) -> None:
        self.observe(events, actions)
        self.actions += len(actions)
        for action in actions:
            if isinstance(action, ev.Preload):
                self.at(self.load_seconds(action.worker), ev.WorkerReady(action.worker))
            elif isinstance(action, ev.Start):
                attempt = action.attempt
                self._started[attempt.number] = attempt, self.now
                seconds = self.run_seconds(attempt)
                self.at(seconds, self.outcome(attempt, ev.UnitRan(attempt.number, seconds)))
            elif isinstance(action, ev.Wake):
                self.at(action.seconds, ev.Woke(action.target))
            elif isinstance(action, ev.Ask):
                self.at(0.0, self.decide(action))
            elif isinstance(action, ev.Commit):
                attempt, started = self._started.pop(action.attempt.number)
                self.visits.append(Visit(attempt, started, self.now))

    def _saver_is_busy(self, event: ev.Event) -> bool:
        """Tell whether a unit is reported later: a worker saves one version at a time."""
        if not isinstance(event, ev.UnitRan):
            return False
        attempt, _ = self._started.get(event.attempt, (None, 0.0))
        if attempt is None or self.scheduler.slot(event.attempt) is not Slot.RUNNING:
            return False
        return self.scheduler.slot(self._saving.get(attempt.worker, -1)) is Slot.SAVING

    def _save(self, number: int) -> list[ev.Event]:
        """Save the version of an attempt that has just run, if it made one."""
        if self.scheduler.slot(number) is not Slot.RUNNING or not self.scheduler.is_live(number):
            return []
        attempt, _ = self._started[number]
        if attempt.unit.split is not Split.TRAIN:
            return []
        self._saving[attempt.worker] = number
        event, seconds = self.outcome(attempt, ev.UnitCommitted(number)), self.save_seconds(attempt)
        if not seconds:
            return [event]
        self.at(seconds, event)
        return []

    def committed(self, model: int) -> list[tuple[int, Split, int]]:
        """Return a model's committed history: (epoch, split, partition), in order."""
        return [
            (v.attempt.unit.epoch, v.attempt.unit.split, v.attempt.unit.partition)
            for v in self.visits
            if v.attempt.unit.model == model
        ]
