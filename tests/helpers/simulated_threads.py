"""Threads, locks, queues and clocks of a simulated world, for code that uses the real ones.

Every simulated thread is carried by a real one, but only one runs at any time: it hands the baton
on where it waits, and now and then where it could be interrupted. Who goes on is drawn from a
generator, time passes only when nobody can go on, so one seed gives one history. Threads belong
to simulated processes, which can be killed (nothing of them happens any more) and stopped.
"""

from __future__ import annotations

import _thread
import concurrent.futures
import heapq
import queue
import random
import threading
import time
from collections import deque

PREEMPTION = 0.1
"""How often a thread is interrupted at a point where it need not wait."""

TICK = 1e-6
"""The shortest wait: less could be lost in the sum with the time."""


class Killed(BaseException):
    """Raised in the threads of a process that was killed, at whatever they do next."""


class Process:
    """A simulated process. `ends` are called when it is killed."""

    def __init__(self, kernel, name, host, pid):
        self.kernel, self.name, self.host, self.pid = kernel, name, host, pid
        self.alive = True
        self.stopped = False
        self.ends = []

    def kill(self):
        if not self.alive:
            return
        self.alive = False
        for thread in list(self.kernel.threads):
            if thread.process is self:
                self.kernel.wake(thread)
        for end in self.ends:
            end()

    def spawn(self, target, *args, name=""):
        thread = SimulatedThread(self.kernel, self, target, args, name or self.name)
        thread.start()
        return thread


class Carrier:
    """A real thread that carries simulated ones, one after another."""

    def __init__(self, idle):
        self.job = None
        self._idle = idle
        self._go = _thread.allocate_lock()
        self._go.acquire()
        self.thread = threading.Thread(target=self._serve, name="carrier", daemon=True)
        self.thread.start()

    def carry(self, job):
        self.job = job
        self._go.release()

    def _serve(self):
        while True:
            self._go.acquire()
            if self.job is None:
                return
            hand_over = self.job()
            self._idle.append(self)
            hand_over()


class SimulatedThread:
    """What `threading.Thread` gives."""

    def __init__(self, kernel, process, target, args, name):
        self.kernel, self.process, self.name = kernel, process, name
        self.ident = None
        self.parked = False
        self.woken = False
        self.waits = 0
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self._job = target, args
        self._ended = kernel.event()

    def start(self):
        self.kernel.number += 1
        self.ident = self.kernel.number
        self.kernel.threads[self] = None
        self.kernel.ready.append(self)
        self.kernel.carrier().carry(self._run)

    def is_alive(self):
        return self.ident is not None and not self._ended.is_set()

    def join(self, timeout=None):
        self._ended.wait(timeout)

    def _run(self):
        target, args = self._job
        self.baton.acquire()
        try:
            self.kernel.check()
            target(*args)
        except Killed:
            pass
        except BaseException as error:
            self.kernel.fail(error)
        self._ended.over(True)
        del self.kernel.threads[self]
        return self.kernel.hand_over


class Kernel:
    """Who runs, and what time it is."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.now = 0.0
        self.number = 0
        self.current = None
        self.threads = {}
        self.ready = []
        self.failure = None
        self.is_over = lambda: False
        self.limit = 1e9
        self._calendar = []
        self._idle = []
        self._carriers = []
        self._ending = False
        self._main = _thread.allocate_lock()
        self._main.acquire()

    def process(self, name, host, pid=0):
        self.number += 1
        return Process(self, name, host, pid or self.number)

    def at(self, seconds, action):
        """Have `action` called so many seconds from now, on nobody's thread."""
        self.number += 1
        heapq.heappush(self._calendar, (self.now + seconds, self.number, action))

    def fail(self, error):
        """What was promised does not hold: the world ends."""
        if self.failure is None and not self._ending:
            self.failure = error

    def run(self):
        """Let the world go on until it is over, then end all that is in it."""
        self.hand_over()
        self._main.acquire()
        self._ending = True
        for thread in list(self.threads):
            thread.process.alive = False
        while self.threads:
            thread = self.current = next(iter(self.threads))
            thread.baton.release()
            self._main.acquire()
        for carrier in self._carriers:
            carrier.carry(None)
            carrier.thread.join(10)
        if self.failure is not None:
            raise self.failure

    def carrier(self):
        if self._idle:
            return self._idle.pop()
        self._carriers.append(Carrier(self._idle))
        return self._carriers[-1]

    # --- what threads call -----------------------------------------------------------------------

    def check(self):
        """Raise `Killed` in what is dead."""
        if self.current is not None and not self.current.process.alive:
            raise Killed

    def point(self):
        """A place where a thread may be interrupted, killed or stopped."""
        self.check()
        thread = self.current
        if thread is not None and (
            thread.process.stopped or self.random.random() < PREEMPTION or self.failure
        ):
            self.ready.append(thread)
            self._switch(thread)

    def park(self, timeout=None):
        """Wait until woken: True; or until the time is over: False."""
        self.check()
        thread = self.current
        assert thread is not None, "only simulated threads wait"
        thread.parked, thread.woken = True, False
        thread.waits += 1
        if timeout is not None:
            number = thread.waits
            self.at(max(0.0, timeout), lambda: self._expired(thread, number))
        self._switch(thread)
        return thread.woken

    def wake(self, thread):
        if thread.parked:
            thread.parked, thread.woken = False, True
            self.ready.append(thread)

    def sleep(self, seconds):
        self.park(seconds)

    def _expired(self, thread, number):
        if thread.parked and thread.waits == number:
            thread.parked = False
            self.ready.append(thread)

    def _switch(self, thread):
        self.hand_over(thread)
        thread.baton.acquire()
        self.check()

    def hand_over(self, giver=None):
        """Let somebody go on; the giver itself, if it is chosen, finds its baton there."""
        chosen = self.current = None if self._ending else self._choose()
        (self._main if chosen is None else chosen.baton).release()

    def _choose(self):
        while self.failure is None and not self.is_over():
            able = [t for t in self.ready if not (t.process.stopped and t.process.alive)]
            if able:
                chosen = able[self.random.randrange(len(able))]
                self.ready.remove(chosen)
                return chosen
            self.current = None
            try:
                moment, _, action = heapq.heappop(self._calendar)
                self.now = max(self.now, moment)
                if self.now > self.limit:
                    raise AssertionError(
                        f"the run does not end: it is {self.now:.0f} s\n{self.where()}"
                    )
                action()
            except IndexError:
                self.fail(AssertionError(f"everybody waits for ever\n{self.where()}"))
            except Exception as error:
                self.fail(error)
        return None

    def where(self):
        """What every thread waits for, for people."""
        return "\n".join(f"{t.process.name}: {t.name}" for t in self.threads)

    # --- what stands in for the standard library -------------------------------------------------

    def event(self):
        return SimulatedEvent(self)

    def modules(self):
        """(real thing, what replaces it) for names that modules have imported."""
        return [
            (threading, Stand(threading, **_threading(self))),
            (time, Stand(time, monotonic=lambda: self.now, perf_counter=lambda: self.now,
                         time=lambda: 1e9 + self.now, sleep=self.sleep)),
            (queue, Stand(queue, SimpleQueue=lambda: SimulatedQueue(self))),
            (
                concurrent.futures.ThreadPoolExecutor,
                lambda *args, **_: SimulatedPool(self, *args),
            ),
        ]  # fmt: skip


class Stand:
    """A module with some of its names replaced."""

    def __init__(self, module, **names):
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, name)


def _threading(kernel):
    def thread(target=None, args=(), name="", daemon=None):
        return SimulatedThread(kernel, kernel.current.process, target, args, name)

    return {
        "Thread": thread,
        "Event": lambda: SimulatedEvent(kernel),
        "Lock": lambda: SimulatedLock(kernel),
        "Condition": lambda lock=None: SimulatedCondition(kernel, lock or SimulatedLock(kernel)),
        "current_thread": lambda: kernel.current,
        "main_thread": lambda: None,
    }


class Waitable:
    def __init__(self, kernel):
        self.kernel = kernel
        self._waiting = []

    def _wait(self, condition, timeout):
        """Wait until `condition` holds; whether it does. What waits at all waits for a tick."""
        timeout = timeout if timeout is None else max(timeout, TICK)
        deadline = None if timeout is None else self.kernel.now + timeout
        while not condition():
            left = None if deadline is None else deadline - self.kernel.now
            if left is not None and left <= 0:
                return False
            thread = self.kernel.current
            self._waiting.append(thread)
            self.kernel.park(left)
            if thread in self._waiting:
                self._waiting.remove(thread)
        return True

    def _wake_all(self):
        waiting, self._waiting = self._waiting, []
        for thread in waiting:
            self.kernel.wake(thread)


class SimulatedLock(Waitable):
    def __init__(self, kernel):
        super().__init__(kernel)
        self.held = False

    def acquire(self):
        self.kernel.point()
        self._wait(lambda: not self.held, None)
        self.held = True
        return True

    def release(self):
        self.held = False
        self._wake_all()

    def __enter__(self):
        return self.acquire()

    def __exit__(self, *_):
        self.release()


class SimulatedEvent(Waitable):
    def __init__(self, kernel):
        super().__init__(kernel)
        self._set = False

    def is_set(self):
        return self._set

    def set(self):
        self.kernel.point()
        self.over(True)

    def clear(self):
        self._set = False

    def over(self, value):
        self._set = value
        self._wake_all()

    def wait(self, timeout=None):
        self.kernel.point()
        return self._wait(lambda: self._set, timeout)


class SimulatedCondition(Waitable):
    def __init__(self, kernel, lock):
        super().__init__(kernel)
        self._lock = lock
        self._notices = 0

    def __enter__(self):
        return self._lock.acquire()

    def __exit__(self, *_):
        self._lock.release()

    def notify_all(self):
        self._notices += 1
        self._wake_all()

    def wait(self, timeout=None):
        before = self._notices
        self._lock.release()
        told = self._wait(lambda: self._notices > before, timeout)
        self._lock.acquire()
        return told

    def wait_for(self, condition, timeout=None):
        deadline = None if timeout is None else self.kernel.now + timeout
        while not (result := condition()):
            left = None if deadline is None else deadline - self.kernel.now
            if left is not None and left <= 0:
                break
            self.wait(left)
        return result


class SimulatedQueue(Waitable):
    def __init__(self, kernel):
        super().__init__(kernel)
        self._items = deque()

    def put(self, item):
        self.kernel.point()
        self.add(item)

    def add(self, item):
        """Put on behalf of nobody."""
        self._items.append(item)
        self._wake_all()

    def get(self, block=True, timeout=None):
        self.kernel.point()
        if not (self._items or (block and self._wait(lambda: bool(self._items), timeout))):
            raise queue.Empty
        return self._items.popleft()

    def get_nowait(self):
        return self.get(block=False)

    def empty(self):
        return not self._items

    def qsize(self):
        return len(self._items)


class SimulatedFuture(Waitable):
    def __init__(self, kernel, job):
        super().__init__(kernel)
        self.job = job
        self.state = "waits"
        self.value = None

    def work(self):
        if self.state != "waits":
            return
        self.state = "works"
        try:
            self.value, self.state = self.job(), "done"
        except Exception as error:
            self.value, self.state = error, "failed"
        self._wake_all()

    def cancel(self):
        if self.state != "waits":
            return False
        self.state = "failed"
        self.value = concurrent.futures.CancelledError()
        self._wake_all()
        return True

    def result(self, timeout=None):
        if not self._wait(lambda: self.state in ("done", "failed"), timeout):
            raise TimeoutError
        if self.state == "failed":
            raise self.value
        return self.value


class SimulatedPool:
    def __init__(self, kernel, workers=4):
        self.kernel = kernel
        self._workers = workers
        self._threads = []
        self._futures = []
        self._queue = SimulatedQueue(kernel)

    def submit(self, function, *args):
        self.kernel.point()
        future = SimulatedFuture(self.kernel, lambda: function(*args))
        self._futures.append(future)
        self._queue.add(future)
        if len(self._threads) < self._workers:
            name = getattr(function, "__qualname__", "pool")
            self._threads.append(self.kernel.current.process.spawn(self._serve, name=name))
        return future

    def map(self, function, items):
        futures = [self.submit(function, item) for item in items]
        return (future.result() for future in futures)

    def shutdown(self, wait=True, cancel_futures=False):
        if cancel_futures:
            for future in self._futures:
                future.cancel()
        for _ in self._threads:
            self._queue.add(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _serve(self):
        while (future := self._queue.get()) is not None:
            future.work()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shutdown()
