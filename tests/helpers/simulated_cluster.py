"""A cluster without hardware: real drivers, links, daemons and executors on simulated threads.

What is played are the network between driver and worker, the pipe between daemon and executor,
the training tool, and the deaths of all of them. Everything else is the library's own code: the
entrance `schedule()` with `resume="auto"`, `Driver`, `Scheduler`, `Journal`, `Ownership`, `Link`,
`Daemon`, `WorkerSession`, `Executor` and its `Saver`. Files are real, in a temporary folder.

The played tool "trains" by writing down what a model has seen, so a unit that was trained twice,
left out, or trained from a wrong version stands in the model's state for good. `Oracle` follows
the journal as it is written and says what counts, by rules of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import itertools
import json
import os
import shutil
import socket
import sys
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

from simulated_threads import Kernel, Killed, SimulatedFuture, SimulatedQueue, Stand

from cerebro import errors, machine, shipping
from cerebro.backends.base import UnitRun
from cerebro.driver import admission, schedule
from cerebro.driver.search_decisions import Search
from cerebro.hopper.units import ModelState, Split
from cerebro.journal import journal, ownership
from cerebro.journal.checkpoint_paths import CheckpointPaths
from cerebro.journal.journal import read_journal
from cerebro.journal.ledger import Ledger
from cerebro.journal.log_files import LogWriter, rebuild
from cerebro.journal.ownership import check_free
from cerebro.journal.paths import RunPaths
from cerebro.journal.provenance import git_commit, write_provenance
from cerebro.journal.records import DecisionRecord, parse
from cerebro.progress import Reporter
from cerebro.protocol.messages import (
    ExecutorSetup,
    ExecutorStarted,
    Item,
    UnitOrder,
    VersionPublished,
    parse_event,
)
from cerebro.results.result import Result
from cerebro.rpc import load_secret
from cerebro.search import (
    ASHA,
    TPE,
    GridSearch,
    Hyperband,
    MedianStopping,
    PopulationBasedTraining,
    RandomSearch,
    SuccessiveHalving,
    Uniform,
)
from cerebro.storage import open_descriptor, publish_folder, remove_below, remove_folder
from cerebro.worker import executor as executor_module
from cerebro.worker import saver, session
from cerebro.worker.daemon import Daemon, Resources
from cerebro.worker.executor import Executor

HEARTBEAT = 4.0
RUN_NAME = "run"
END_OF_TIME = 6_000.0
"""Simulated seconds after which a run counts as one that does not end."""

DRAIN_SECONDS = 30.0
"""Simulated seconds in which a daemon that was told to drain should have ended."""

NOISE_ENDS = 120.0
"""Simulated seconds after which the network loses nothing any more."""

RETRY_SECONDS = 5.0
DRIVERS_ALLOWED = 150
"""Drivers that are started, one after another, before a run counts as one that does not end."""

PASSING = (
    errors.RunError,
    errors.ClusterError,
    errors.StorageError,
    errors.RpcError,
)
"""What may end a driver in bad times; its user starts another one."""


@dataclass(frozen=True)
class Shape:
    """What is trained, on what."""

    workers: int = 2
    models: int = 2
    train: int = 2
    valid: int = 1
    epochs: int = 2
    replicated: bool = True
    child: bool = False
    placement: str = "critical"
    search: str = ""


SPACE = {"rate": Uniform(0, 1)}
SEARCHES = {
    "grid": GridSearch({"rate": [1, 2, 3]}, epochs=2),
    "two of a grid at a time": GridSearch({"rate": [1, 2, 3]}, epochs=2, in_flight=2),
    "halving": SuccessiveHalving(SPACE, n=4, max_epochs=3, eta=2),
    "hyperband": Hyperband(SPACE, max_epochs=3, in_flight=3),
    "asha": ASHA(SPACE, max_epochs=4, eta=2, n=5),
    "asha by units": ASHA(SPACE, max_epochs=4, eta=2, max_units=40, in_flight=3),
    "asha by time": ASHA(SPACE, max_epochs=4, eta=2, max_seconds=30.0),
    "population": PopulationBasedTraining(SPACE, population=4, epochs=3),
    "median": MedianStopping(RandomSearch(SPACE, n=4, epochs=2), min_models=2),
    "tpe": TPE(SPACE, n=5, epochs=1, startup=2, in_flight=2),
}
"""What a run of a `Shape` may be driven by, in place of its own configurations."""


@dataclass(frozen=True)
class Noise:
    """How bad the network is: chances in a hundred, for each message."""

    lost: int = 0
    doubled: int = 0
    late: int = 0


@dataclass(frozen=True)
class Fault:
    """`action` is done to `worker` (or the driver) at the `count`-th time that `moment` comes."""

    moment: str
    count: int
    action: str
    worker: int
    seconds: float


MOMENTS = (
    "write", "written", "order", "delete", "asked",
    "delivered", "starts", "ran", "saving", "published", "reported",
)  # fmt: skip
ACTIONS = (
    "kill driver", "tear record", "stop driver", "fill disk",
    "kill daemon", "stop daemon", "end daemon", "drain daemon", "kill executor", "cut", "damage",
)  # fmt: skip


class Oracle:
    """What counts in the journal, followed write by write, and what must be true of it."""

    def __init__(self, world):
        self.world = world
        self.records = []
        self.highest = 0
        self.damaged = set()
        self.ledger = Ledger()
        self._torn = {}

    def wrote(self, generation, content):
        """A driver has made bytes durable at the end of a generation's file."""
        content = self._torn.pop(generation, b"") + content
        lines = content.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            self._torn[generation] = lines.pop()
        for line in lines:
            record = parse(json.loads(line.partition(b" ")[2]), generation)
            record = CheckpointPaths(self.world.paths).read(record)
            if record.kind == "generation":
                self._begin(generation, record)
            if generation == self.highest:
                self._add(record)

    def _begin(self, generation, record):
        if generation < self.highest:
            return  # it was replaced before it could say anything
        assert generation > self.highest, "a generation was claimed twice"
        self.highest = generation
        before = record.predecessor
        last = 0 if before is None else before.seq
        self.records = [r for r in self.records if r.seq <= last]
        self.ledger = Ledger()
        for kept in self.records:
            self.ledger.add(kept)

    def _add(self, record):
        self._check(record)
        self.records.append(record)
        self.ledger.add(record)

    def _check(self, record):
        if record.kind == "void":
            lost = self.ledger.models[record.model].checkpoints[record.version]
            assert lost in self.damaged, f"{lost} is void, and nobody damaged it"
        elif record.kind == "committed" and record.checkpoint is not None:
            assert os.path.dirname(record.checkpoint) in self.world.published
        elif record.kind == "started":
            attempt = record.attempt
            before = (r.attempt for r in self.records if r.kind == "started")
            assert attempt not in before, f"attempt {attempt} has begun twice"

    def kept(self):
        """The folders that must be there."""
        models = self.ledger.models.values()
        return {os.path.dirname(path) for m in models for path in m.checkpoints.values()}

    def check_storage(self):
        for folder in self.kept():
            assert os.path.isdir(folder), f"{folder} counts, and is not there"

    def check_end(self, shape):
        """Exactly once, and every version is what its visits make it."""
        assert self.ledger.ended
        counted, versions, orders = {}, {}, {}
        for record in self.records:
            if record.kind == "decision":
                for new in record.add:
                    state = self._start(new, versions)
                    versions[new.model] = {0: state}
            elif record.kind == "started":
                orders[record.attempt] = record
            elif record.kind == "void":
                self._void(record, counted, versions)
            elif record.kind == "committed":
                self._count(orders[record.attempt], record, counted, versions)
        failed = {r.model for r in self.records if r.kind == "model_failed"}
        for model in self.ledger.models.values():
            if model.id in failed:
                continue
            units = [u for u in counted if u[0] == model.id]
            epochs = {u[1] for u in units}
            expected = {
                (model.id, epoch, split, partition)
                for epoch in epochs
                for split, number in (("train", shape.train), ("valid", shape.valid))
                for partition in range(number)
            }
            assert set(units) == expected, sorted(expected.symmetric_difference(units))
            own = [e for e in model.epochs if not e.inherited]
            assert len(epochs) == len(own), (epochs, own)
            if shape.search:
                assert model.state in (ModelState.COMPLETED, ModelState.STOPPED)
            else:
                assert len(model.epochs) == shape.epochs
            for version, path in model.checkpoints.items():
                if path in self.damaged:
                    continue
                state = json.loads(Path(path).read_text().partition(" ")[2])
                assert state["visits"] == versions[model.id][version], (model.id, version)

    def check_decisions(self, procedure):
        """Each decision is what a driver decides that has nothing but the journal before it."""
        ledger = Ledger()
        for record in self.records:
            if record.kind == "decision":
                answers = Search(procedure, ledger, "").ask(ledger, ())
                said = [DecisionRecord(t=0.0, generation=1, **vars(a)).to_json() for a in answers]
                (said,) = json.loads(json.dumps(said))
                there = record.to_json()
                for name in ("add", "asked", "stop"):
                    assert said[name] == there[name]
            ledger.add(record)
        assert Search(procedure, ledger, "").ask(ledger, ()) == [], "the search ends too early"

    def _start(self, new, versions):
        """What a warm-started model has seen before it begins."""
        for model, path in self._ever():
            if path == new.checkpoint:
                return versions[model[0]][model[1]]
        return []

    def _ever(self):
        """((model, version), checkpoint) of all that was ever committed."""
        ledger = Ledger()
        for record in self.records:
            ledger.add(record)
            for model in ledger.models.values():
                for version, path in model.checkpoints.items():
                    yield (model.id, version), path

    @staticmethod
    def _void(record, counted, versions):
        model, version = record.model, record.version
        del versions[model][version]
        last = max((n, u) for u, n in counted.items() if u[0] == model and u[2] == "train")
        assert last[0] == version
        del counted[last[1]]
        epoch = last[1][1]
        n_epoch = [u for u in counted if u[0] == model and u[1] > epoch]
        assert not n_epoch or all(u[2] == "train" for u in n_epoch)

    @staticmethod
    def _count(order, record, counted, versions):
        unit = order.model, order.epoch, order.split.value, order.partition
        states = versions.setdefault(order.model, {0: []})
        if order.split is Split.VALID:
            counted[unit] = order.reads
            return
        assert unit not in counted, f"{unit} counts twice"
        version = order.reads + 1
        assert version == max(states) + 1, f"{unit} made version {version} after {max(states)}"
        counted[unit] = version
        states[version] = [*states[order.reads], [order.epoch, order.partition]]


class JournalFiles:
    """`os` for the journal: what is written goes by the oracle and may go wrong."""

    def __init__(self, world):
        self._world = world
        self._generations = {}

    def __getattr__(self, name):
        return getattr(os, name)

    def open_descriptor(self, path, flags, *, inside):
        self._world.kernel.point()
        descriptor = open_descriptor(path, flags, inside=inside)
        if Path(path).suffix == ".jsonl":
            self._generations[descriptor] = int(Path(path).stem)
            self._world.claims[self._world.kernel.current.process] = int(Path(path).stem)
        return descriptor

    def write(self, descriptor, content):
        world = self._world
        if descriptor < 0:
            return os.write(descriptor, content)
        generation = self._generations[descriptor]
        world.moment("write")
        if world.pop("tear record"):
            self._put(generation, descriptor, bytes(content)[: len(content) // 2])
            world.kill_driver(world.kernel.current.process)
            world.kernel.check()
        if world.pop("fill disk"):
            self._put(generation, descriptor, bytes(content)[: len(content) // 3])
            raise OSError(errno.ENOSPC, "No space left on device")
        self._put(generation, descriptor, bytes(content))
        world.oracle.check_storage()
        world.moment("written")
        return len(content)

    def _put(self, generation, descriptor, content):
        os.write(descriptor, content)
        self._world.oracle.wrote(generation, content)


class PlayedTool:
    """A training tool that writes down what a model has seen."""

    def __init__(self, world, worker):
        self._world, self._worker = world, worker

    def load(self, path, seed):
        self._world.pause(0.0, 0.3)
        return path

    def read(self, checkpoint):
        self._world.kernel.point()
        try:
            crc, _, text = Path(checkpoint).read_text().partition(" ")
        except FileNotFoundError as error:
            raise errors.VersionDamaged(f"{checkpoint} is gone") from error
        if int(crc, 16) != zlib.crc32(text.encode()):
            raise errors.VersionDamaged(f"{checkpoint}: the checksum is wrong")
        return json.loads(text)

    def run(self, task, data, state):
        world = self._world
        world.moment("starts", self._worker)
        world.trained[task.model, task.epoch, task.train, task.partition] += 1
        world.pause(0.05, 2.0)
        state = state or {"visits": []}
        visits = state["visits"] + ([[task.epoch, task.partition]] if task.train else [])
        known = [task.model, visits, task.partition]
        error = zlib.crc32(json.dumps(known).encode()) / 2**32
        world.moment("ran", self._worker)
        new = {"visits": visits} if task.train else None
        return UnitRun(error, error, None, new, {"run": 1.0})

    def write(self, state, directory):
        world = self._world
        world.made[directory] = next(world.steps)
        world.pause(0.0, 1.0)
        text = json.dumps(state)
        Path(directory, "state").write_text(f"{zlib.crc32(text.encode()):08x} {text}")
        world.moment("saving", self._worker)
        return "state"

    def forget(self, model):
        pass

    def recycle(self, state):
        pass

    def is_resource_error(self, error):
        return False


class PlayedExecutorProcess:
    """What `ExecutorProcess` gives: the real executor behind a played pipe."""

    def __init__(self, world, setup, functions, environment, on_event, on_exit):
        kernel = world.kernel
        self._world = world
        self._daemon = kernel.current.process
        self._worker = world.worker_of[self._daemon]
        self.process = kernel.process(f"executor of worker {self._worker}", self._daemon.host)
        self.pid = self.process.pid
        self._inbox = SimulatedQueue(kernel)
        self._events = SimulatedQueue(kernel)
        self._on_event, self._on_exit = on_event, on_exit
        self.process.ends.append(lambda: self._events.add(None))
        # The end of the pipe is noticed at once, which is not the same as at that instant.
        self._daemon.ends.append(
            lambda: kernel.at(kernel.random.choice([0.0, 0.1, 0.5]), self.process.kill)
        )
        before = world.executors.get(self._worker)
        assert before is None or not before.alive or not before.daemon.alive, "two executors"
        self.process.daemon = self._daemon
        self._started = set()
        world.executors[self._worker] = self.process
        self._reader = self._daemon.spawn(self._read, name="reader")
        self.process.spawn(self._serve, json.dumps(setup.to_json()), name="executor")

    def send(self, method, **params):
        self._world.kernel.point()
        self._inbox.add(json.dumps({"method": method.value, **params}))

    def kill(self):
        self.process.kill()

    def join(self, seconds):
        self._reader.join(seconds)
        return not self._reader.is_alive()

    def _read(self):
        while (event := self._events.get()) is not None:
            self._on_event(parse_event(json.loads(event)))
        self._on_exit(-9, "")

    def _report(self, event):
        self._world.kernel.point()
        self._events.add(json.dumps(event.to_json()))
        if isinstance(event, VersionPublished):
            self._world.moment("reported", self._worker)

    def _serve(self, setup):
        self._world.pause(0.0, 0.5)
        tool = PlayedTool(self._world, self._worker)
        options = ExecutorSetup.from_json(json.loads(setup)).options
        executor = Executor(tool, self._report, self._exhausted, options)
        self._report(ExecutorStarted(devices=["CPU"], pid=self.pid))
        orders = SimulatedQueue(self._world.kernel)
        self.process.spawn(self._receive, executor, orders, name="orders")
        while True:
            orders.get()()

    def _exhausted(self):
        raise AssertionError("nothing runs out here")

    def _receive(self, executor, orders):
        while True:
            message = json.loads(self._inbox.get())
            kind = message.pop("method")
            if "order" in message:
                message = {"order": UnitOrder.from_json(message["order"])}
            if "items" in message:
                message = {"items": [Item.from_json(item) for item in message["items"]]}
            if kind == "start":
                attempt = message["order"].attempt
                assert attempt not in self._started, f"attempt {attempt} is run twice"
                self._started.add(attempt)
            method = functools.partial(getattr(executor, kind), **message)
            if kind in ("stage", "unstage"):
                method()
            else:
                orders.put(method)


@dataclass
class Worker:
    """A node: its daemon, if one runs, and its cable."""

    number: int
    url: str
    process: object = None
    daemon: object = None
    methods: dict = field(default_factory=dict)
    boot: str = ""
    cut_until: float = 0.0
    ranks: dict = field(default_factory=dict)
    under_way: dict = field(default_factory=dict)


class PlayedClient:
    """What `Client` gives, over the played network."""

    def __init__(self, world, url):
        self._world = world
        self._worker = world.workers[int(url.rpartition(":")[2]) - 7000]
        self._closed = False
        self._answer = None
        self.boot_id = ""

    def call(self, method, deadline, /, **params):
        world = self._world
        world.kernel.point()
        if self._closed:
            raise errors.RpcUnreachable("this client is closed")
        if method in ("start", "stage", "unstage", "preload", "forget", "orders"):
            world.moment("order")
        self._answer = answer = SimulatedFuture(world.kernel, lambda: None)
        world.send(self._worker, method, json.dumps(params), answer)
        try:
            boot, text = answer.result(deadline)
        except TimeoutError:
            raise errors.RpcTimeout(f"{self._worker.url} did not answer in time") from None
        self.boot_id = boot
        return json.loads(text)

    def close(self):
        self._closed = True
        if self._answer is not None:
            settle(self._answer, "failed", errors.RpcUnreachable("the client was closed"))


def settle(answer, state, value):
    """An answer, or its absence, reaches who waits; the first one counts."""
    if answer.state == "waits":
        answer.state, answer.value = state, value
        answer._wake_all()


def asked(procedure, tell):
    """The procedure, as one that tells that it is asked."""

    class Asked(type(procedure)):
        def decide(self, trials):
            tell()
            return super().decide(trials)

    fields = [field.name for field in dataclasses.fields(procedure) if field.init]
    return Asked(**{name: getattr(procedure, name) for name in fields})


class World:
    """One history of one run, from the first driver's start to the last one's end."""

    def __init__(self, folder, shape, noise, faults, seed):
        self.folder, self.shape, self.noise = Path(folder), shape, noise
        self.kernel = Kernel(seed)
        self.kernel.limit = END_OF_TIME
        self.kernel.is_over = lambda: self.complete and not self.living_drivers()
        self.paths = RunPaths(self.folder / RUN_NAME)
        self.oracle = Oracle(self)
        self.workers = [Worker(n, f"http://worker:{7000 + n}") for n in range(shape.workers)]
        self.worker_of = {}
        self.executors = {}
        self.drivers = []
        self.started = 0
        self.published = {}
        self.made = {}
        self.swept = 0
        self.claims = {}
        self.steps = itertools.count(1)
        self.complete = False
        self.log = []
        self.done = []
        self.drained = []
        self.trained = Counter()
        self._armed = [[f, f.count] for f in faults]
        self._pending = set()

    # --- faults ----------------------------------------------------------------------------------

    def moment(self, name, worker=None):
        """Something is about to happen, or has: faults that wait for it come now."""
        self.kernel.point()
        due = []
        for entry in list(self._armed):
            if entry[0].moment == name:
                entry[1] -= 1
                if entry[1] <= 0:
                    self._armed.remove(entry)
                    due.append(entry[0])
        for fault in due:
            self.say(f"FAULT {fault} (worker {worker})")
            self._do(fault, self.workers[fault.worker % len(self.workers)])
        self.kernel.check()
        self.kernel.point()

    def pop(self, action):
        """Whether this is to go wrong now, once."""
        found = action in self._pending
        self._pending.discard(action)
        return found

    def _do(self, fault, worker):
        kernel, seconds = self.kernel, fault.seconds
        self.done.append(fault.action)
        living = self.living_drivers()
        if fault.action in ("tear record", "fill disk"):
            self._pending.add(fault.action)
        elif fault.action == "kill driver" and living:
            self.kill_driver(living[-1], seconds)
        elif fault.action == "stop driver" and living:
            driver = living[-1]
            driver.stopped = True
            kernel.at(seconds, lambda: self._go_on(driver))
            # Nobody can know that it still is: on another host, a driver takes over.
            kernel.at(1.0, lambda: self.start_driver(f"host{self.started}"))
        elif fault.action in ("kill daemon", "end daemon") and worker.process:
            process = worker.process
            if fault.action == "end daemon" and worker.daemon is not None:
                process.spawn(self._leave, worker, name="leave")
            else:
                process.kill()
            kernel.at(seconds, lambda: self._reboot(worker, process))
        elif fault.action == "drain daemon" and worker.daemon is not None:
            process = worker.process
            process.spawn(worker.daemon.drain, name="drain")
            # One that cannot end, because its driver is not heard of, is started anew as well.
            kernel.at(DRAIN_SECONDS + seconds, lambda: self._reboot(worker, process))
        elif fault.action == "stop daemon" and worker.process:
            process = worker.process
            process.stopped = True
            kernel.at(seconds, lambda: self._go_on(process))
        elif fault.action == "kill executor" and worker.number in self.executors:
            self.executors[worker.number].kill()
        elif fault.action == "cut":
            worker.cut_until = max(worker.cut_until, kernel.now + seconds)
        elif fault.action == "damage":
            self._damage()

    def _leave(self, worker):
        worker.daemon.leave()
        worker.process.kill()

    def _reboot(self, worker, process):
        process.kill()
        if worker.process is process:
            self.boot(worker)

    def _go_on(self, process):
        self.say(f"{process.name} goes on")
        process.stopped = False

    def _damage(self):
        """Flip what is in the newest version of a model."""
        models = sorted(self.oracle.ledger.models.items())
        paths = [m.checkpoints[max(m.checkpoints)] for _, m in models if m.checkpoints]
        if paths:
            path = self.kernel.random.choice(paths)
            Path(path).write_text("00000000 damaged")
            self.oracle.damaged.add(path)
            self.say(f"damaged {path}")

    # --- the network -----------------------------------------------------------------------------

    def send(self, worker, method, content, answer):
        """A request sets out, perhaps twice, perhaps in vain."""
        random, noise, kernel = self.kernel.random, self.noise, self.kernel
        boot = worker.boot
        if worker.process is None or not worker.process.alive:
            kernel.at(0.1, lambda: settle(answer, "failed", errors.RpcUnreachable("refused")))
            return

        def arrive():
            self._deliver(worker, boot, method, content, answer)

        worker.under_way[answer] = None
        noisy = kernel.now < NOISE_ENDS
        self._travel(worker, arrive, noisy, answer)
        if noisy and random.randrange(100) < noise.doubled:
            kernel.at(random.choice([0.1, 1.0, 5.0, 20.0, 60.0]), arrive)

    def _travel(self, worker, arrive, noisy, answer):
        """One message on its way: `arrive` is called when it is there, if ever."""
        random, kernel = self.kernel.random, self.kernel
        if kernel.now < worker.cut_until:
            # What is sent into a cut cable may come through when it is mended.
            if random.random() < 0.5:
                healed = worker.cut_until - kernel.now
                kernel.at(healed + random.uniform(0.01, 0.5), arrive)
            return
        if noisy and random.randrange(100) < self.noise.lost:
            if random.random() < 0.5:  # the connection breaks, or nobody hears anything
                broken = errors.RpcUnreachable("the connection broke")
                kernel.at(0.2, lambda: settle(answer, "failed", broken))
            return
        delay = random.uniform(0.001, 0.05)
        if noisy and random.randrange(100) < self.noise.late:
            delay = random.choice([0.5, 3.0, 10.0, 40.0])
        kernel.at(delay, arrive)

    def _deliver(self, worker, boot, method, content, answer):
        if worker.boot != boot or not worker.process.alive or worker.daemon is None:
            settle(answer, "failed", errors.RpcUnreachable("refused"))
            return
        worker.process.spawn(self._execute, worker, method, content, answer, name=method)

    def _execute(self, worker, method, content, answer):
        self.moment("delivered", worker.number)
        boot = worker.boot
        try:
            params = json.loads(content)
            text = json.dumps(worker.methods[method](**params))
            if method == "open_run":
                ticket = params["ticket"]
                rank, highest = tuple(ticket.values())[1:], worker.ranks.get(ticket["run"], (0, 0))
                assert rank >= highest, f"{worker.url} serves {rank} after {highest}"
                worker.ranks[ticket["run"]] = rank
            state, value = "done", (boot, text)
        except Exception as error:
            state, value = "failed", errors.RpcFault(type(error).__name__, str(error))
            if not isinstance(error, errors.CerebroError):
                raise
        worker.under_way.pop(answer, None)
        noisy = self.kernel.now < NOISE_ENDS
        self._travel(worker, lambda: settle(answer, state, value), noisy, answer)

    # --- workers ---------------------------------------------------------------------------------

    def boot(self, worker):
        """Start a daemon, which knows nothing of the one before."""
        worker.daemon = None
        worker.ranks = {}
        worker.boot = f"{worker.number}.{next(self.steps)}"
        process = worker.process = self.kernel.process(f"daemon {worker.boot}", worker.url)
        self.worker_of[process] = worker.number
        process.ends.append(lambda: self._broken(worker))
        process.spawn(self._begin_daemon, worker, name="main")

    def _begin_daemon(self, worker):
        process = worker.process
        daemon = Daemon(Resources(threads=1), drained=lambda: self._drained(process))
        worker.methods, worker.daemon = daemon.methods(), daemon

    def _drained(self, process):
        self.drained.append(process.name)
        process.kill()

    def _broken(self, worker):
        """With the daemon go its connections; behind a cut cable nobody hears of it."""
        pending, worker.under_way = worker.under_way, {}
        if self.kernel.now >= worker.cut_until:
            broken = errors.RpcUnreachable("the connection broke")
            for answer in pending:
                self.kernel.at(0.01, functools.partial(settle, answer, "failed", broken))

    # --- drivers ---------------------------------------------------------------------------------

    def living_drivers(self):
        return [p for p in self.drivers if p.alive]

    def start_driver(self, host="host"):
        """Somebody calls `schedule(..., resume="auto")`."""
        self.started += 1
        assert self.started < DRIVERS_ALLOWED, "driver after driver, and no end"
        driver = self.kernel.process(f"driver {self.started}", host)
        self.drivers.append(driver)
        driver.spawn(self._drive, driver, name="main")

    def kill_driver(self, driver, seconds=1.0):
        driver.kill()
        # On the same host its end is known at once, elsewhere it is waited for.
        host = driver.host if self.kernel.random.random() < 0.5 else f"host{self.started}"
        self.kernel.at(seconds, lambda: self.complete or self.start_driver(host))

    def _drive(self, driver):
        shape = self.shape
        matrix = [[1] * shape.train] * shape.workers, [[1] * shape.valid] * shape.workers
        if shape.search:
            decides = {"search": asked(SEARCHES[shape.search], lambda: self.moment("asked"))}
        else:
            configs = [{"rate": number} for number in range(shape.models)]
            decides = {"initial_msts": configs, "mst_eval_fn": self._decide}
        try:
            schedule.schedule(
                [worker.url for worker in self.workers],
                [f"/train/{p}" for p in range(shape.train)],
                [f"/valid/{p}" for p in range(shape.valid)],
                matrix[0] if shape.replicated else None,
                matrix[1] if shape.replicated else None,
                *functions,
                **decides,
                ckpt_root=str(self.folder),
                backend="python",
                run_name=RUN_NAME,
                resume="auto",
                heartbeat=HEARTBEAT,
                placement=shape.placement,
            )
        except errors.RunFailed as error:
            self.say(f"RunFailed: {error}")
            self._completed(driver)
        except (errors.JournalDamaged, errors.NotARun):
            raise  # nobody damages it here, and what is not there is started
        except PASSING as error:
            self.say(f"{type(error).__name__}: {error}")
            if not self.complete and not [p for p in self.living_drivers() if p is not driver]:
                self.kernel.at(RETRY_SECONDS, lambda: self.start_driver(driver.host))
        else:
            self._completed(driver)
        self.say(f"{driver.name} ends")
        driver.alive = False

    def _completed(self, driver):
        if self.oracle.ledger.ended:
            self.complete = True
            if self.claims.get(driver) == max(self.claims.values()):
                self.check_leftovers()
        elif not [p for p in self.living_drivers() if p is not driver]:
            self.start_driver(driver.host)

    def _decide(self, state):
        self.moment("asked")
        stop = [m for m, s in state.items() if len(s["valid_error"]) >= self.shape.epochs]
        new = []
        if self.shape.child and len(state) == self.shape.models and self.shape.epochs > 1:
            parents = [m for m, s in state.items() if s["ckpt_path"] and s["state"] != "FAILED"]
            if parents and len(state[parents[0]]["valid_error"]) == 1:
                new = [{"rate": 99, "init_mst_id": parents[0]}]
        return stop, new

    # --- what happens around ---------------------------------------------------------------------

    def say(self, text):
        name = self.kernel.current.process.name if self.kernel.current else "world"
        self.log.append(f"{self.kernel.now:9.3f} {name}: {text}")

    def pause(self, least, most):
        self.kernel.sleep(self.kernel.random.uniform(least, most))

    def publish(self, temporary, final):
        self.kernel.point()
        publish_folder(temporary, final)
        self.published[str(final)] = next(self.steps)
        self.moment("published", None)

    def remove(self, root, names, identity):
        """Delete a version: never one that counts."""
        folder = os.path.join(root, *names)
        self.moment("delete")
        assert folder not in self.oracle.kept(), (
            f"{self.kernel.current.process.name} deletes {folder}, which counts"
        )
        remove_below(root, names, identity)

    def unreferenced(self, paths, kept):
        self.swept = next(self.steps)
        return unreferenced(paths, kept)

    def check_leftovers(self):
        """Nothing is left but what counts, and what workers wrote after the last sweep."""
        kept = self.oracle.kept()
        for folder in self.paths.models.glob("*/*"):
            since = max(self.published.get(str(folder), 0), self.made.get(str(folder), 0))
            assert str(folder) in kept or since > self.swept, f"{folder} is left behind"

    # --- the whole -------------------------------------------------------------------------------

    def live(self, monkeypatch):
        """Let it all happen, and check what is promised."""
        self._replace(monkeypatch)
        for worker in self.workers:
            self.boot(worker)
        self.kernel.at(0.1, self.start_driver)
        try:
            self.kernel.run()
            self._check()
        except BaseException as error:
            error.add_note("\n".join(self.log)) if hasattr(error, "add_note") else None
            raise

    def _check(self):
        records, _ = read_journal(self.paths)
        assert [(r.generation, r.seq) for r in records] == [
            (r.generation, r.seq) for r in self.oracle.records
        ]
        self.oracle.check_storage()
        for record in records:
            if record.kind == "model_failed":
                assert self._may_fail(record), record
        asked = [
            (m, len([1 for r in records[:i] if r.kind == "decision" and m in r.asked]))
            for i, r in enumerate(records)
            if r.kind == "decision"
            for m in r.asked
        ]
        assert len(asked) == len(set(asked))
        if self.shape.search:
            self.oracle.check_decisions(SEARCHES[self.shape.search])
        else:
            assert all(turn < self.shape.epochs for _, turn in asked)
        self.oracle.check_end(self.shape)

    def _may_fail(self, record):
        deaths = sum(action.startswith(("kill", "stop", "end")) for action in self.done)
        if record.failure == "damaged":
            return bool(self.oracle.damaged)
        return record.failure == "executor" and deaths >= 3

    def _replace(self, monkeypatch):
        """Put the simulated things where the library has the real ones."""
        swaps = [
            *self.kernel.modules(),
            (remove_below, self.remove),
            (ownership.check_free, self._check_free),
            (load_secret, lambda _: SimpleNamespace(key=b"", path="")),
            (LogWriter, lambda *_: lambda *_: None),
            (rebuild, lambda *_: None),
            (write_provenance, lambda *_: None),
            (git_commit, lambda _: None),
        ]
        played = {id(real): stand_in for real, stand_in in swaps}
        for name, module in list(sys.modules.items()):
            if name.startswith(
                (
                    "cerebro.driver.",
                    "cerebro.journal.",
                    "cerebro.progress.",
                    "cerebro.results.",
                    "cerebro.worker.",
                )
            ):
                for key, value in list(vars(module).items()):
                    if id(value) in played:
                        monkeypatch.setattr(module, key, played[id(value)])
        monkeypatch.setattr(saver, "remove_folder", self._remove_temporary)
        monkeypatch.setattr(saver, "publish_folder", self.publish)
        monkeypatch.setattr(executor_module, "captured_output", NothingCaptured)
        monkeypatch.setattr(
            session, "ExecutorProcess", functools.partial(PlayedExecutorProcess, self)
        )
        files = JournalFiles(self)
        monkeypatch.setattr(journal, "os", files)
        monkeypatch.setattr(journal, "open_descriptor", files.open_descriptor)
        monkeypatch.setattr(os, "fsync", lambda _: None)
        monkeypatch.setattr(admission, "client_maker", lambda *_: self._client)
        monkeypatch.setattr(Result, "save_tables", lambda _: None)
        monkeypatch.setattr(shipping, "fingerprint", lambda function, version: "the same")
        monkeypatch.setattr(shipping, "fingerprint_and_parts", lambda function: ("the same", {}))
        monkeypatch.setattr(shipping, "pack", lambda functions: b"")
        monkeypatch.setattr(Reporter, "say", lambda _, text: self.say(text))
        monkeypatch.setattr(RunPaths, "unreferenced", lambda *args: self.unreferenced(*args))
        monkeypatch.setattr(machine, "versions", lambda: VERSIONS)
        monkeypatch.setattr(machine, "host", self._host)
        monkeypatch.setattr(ownership, "os", Stand(os, getpid=lambda: self._host()["pid"]))
        monkeypatch.setattr(
            ownership, "socket", Stand(socket, gethostname=lambda: self._host()["host"])
        )
        monkeypatch.setattr(ownership, "process_start", self._process_start)
        monkeypatch.setattr(ownership, "here", lambda: self._host()["host"], raising=False)
        monkeypatch.setattr(ownership, "is_stopped", self._is_stopped, raising=False)

    def _client(self, url):
        return PlayedClient(self, url)

    def _check_free(self, paths, *, say, takeover_wait):
        check_free(paths, say=say, takeover_wait=takeover_wait, clock=lambda: self.kernel.now)

    def _host(self):
        process = self.kernel.current.process
        return {"host": process.host, "pid": process.pid}

    def _process_start(self, pid):
        return str(pid) if any(p.pid == pid for p in self.living_drivers()) else None

    def _is_stopped(self, pid):
        return any(p.stopped for p in self.drivers if p.pid == pid)

    def _remove_temporary(self, folder):
        self.kernel.check()
        remove_folder(folder)


class NothingCaptured:
    """What is printed is not of interest."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def text(self):
        return ""


VERSIONS = machine.versions()
unreferenced = RunPaths.unreferenced


def _nothing(*_):
    raise AssertionError("the played tool has no use for functions")


functions = (_nothing, _nothing, _nothing)


@contextlib.contextmanager
def one_cpu():
    """Keep this thread, and those that it starts, on one processor.

    Only one of them runs at any time; to hand over from one processor to another costs more.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[os.getpid() % len(allowed)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def simulate(monkeypatch_context, folder, shape, noise, faults, seed):
    """One history in a folder of its own, which is removed."""
    root = Path(folder) / "history"
    root.mkdir()
    try:
        with monkeypatch_context() as monkeypatch, one_cpu():
            world = World(root, shape, noise, faults, seed)
            world.live(monkeypatch)
            return world
    finally:
        shutil.rmtree(root, ignore_errors=True)


__all__ = ["ACTIONS", "MOMENTS", "Fault", "Killed", "Noise", "Shape", "World", "simulate"]
