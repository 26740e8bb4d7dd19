"""A daemon at work under malformed, unsigned, cut, oversized, slow and wrongly signed requests.

    python benchmarks/fuzz.py --requests 100000 --seed 1

One worker is started by its command, and a driver in a process of its own runs a search on it.
While it works, threads send it requests of the kinds in `testbed/hostile.py`, each kind from a
loopback address of its own, some connections trickle byte by byte all the time, and another
process holds hundreds of connections that are idle, trickle, or have said a recorded hello. For
`RAPID_SECONDS` that process opens connections as fast as it can, also from the address of the
driver (`testbed/flood.py`). It must hold:

- The answers are those that each kind allows, and a call that is rightly signed but says nothing
  that can be done is answered with a fault.
- No body without a right signature is parsed, and no method is carried out. The worker runs
  inside `testbed/watched_worker.py`, which counts every entrance to a parser and to a method by
  the peer's address: those of each kind must be no more than its right signatures. That what is
  rightly signed and well-formed is all counted shows that the counting works. The forged calls
  would write files, and end the run.
- Clients that come anew all the time get their answer at their first call.
- The search is not disturbed: the worker is never lost, every attempt is committed at first, and
  the weights are, bit for bit, those of the same search afterwards, without an attack.
- Memory, open files and threads of the daemon grow by less than `LIMIT` per cent from 10 % of the
  requests, a flood of connections, and most of the clients that a worker remembers, to the end of
  the requests and another flood. Of the resident memory the largest step between two marks is left
  out: a heap grows once to hold the most that comes together, a leak grows all the time. Below
  `DECIDING_REQUESTS` requests there are no such clients, and growth is printed and decides nothing.

The exit status is 1 if anything of this does not. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import cerebro
from cerebro.errors import RpcFault
from cerebro.journal.journal import read_journal
from cerebro.journal.paths import RunPaths
from cerebro.journal.records import WorkerStateRecord
from cerebro.journal.worker_states import TROUBLES
from cerebro.rpc import Client, create_secret, encoding, load_secret, parse_url
from cerebro.rpc.limits import DEFAULT_LIMITS
from testbed import requirements
from testbed.flood import Spec as FloodSpec
from testbed.flood import Visits, flooding, visiting
from testbed.forging import Forger, Target, statuses
from testbed.fuzz_driver import Spec
from testbed.gauges import Gauges, median, read_gauges, rows
from testbed.hostile import COUNTED, KINDS, Attack, Ending, Kind
from testbed.trickle import Trickle
from testbed.watched_worker import CALLED, PARSERS, RETURNED, XML, read_report
from testbed.workers import Worker

THREADS = 4
SLOW_HEADS = 4
SLOW_BODIES = 2
SLOW_ADDRESS = "127.0.2.1"
FLOOD_ADDRESS = "127.0.3.1"
OWN_ADDRESS = "127.0.0.1"
FLOOD_IDLE, FLOOD_TRICKLING, FLOOD_GREETING = 300, 50, 50
RAPID_SECONDS = 5.0
VISIT_SECONDS = 10.0
ATTACK_SECONDS = 20.0
END_SECONDS = 120.0
LIMIT = 3.0
DECIDING_REQUESTS = 10_000
LEAST_LEG = 1_000
GAUGE_SAMPLES = 9
GAUGE_PACE_SECONDS = 0.2
HEARTBEAT_SECONDS = 10.0
# Linux: a port is chosen when it is known where to connect to, so that many may be in use.
IP_BIND_ADDRESS_NO_PORT = 24


@dataclass
class Tally:
    """What became of the attacks of one kind."""

    sent: int = 0
    answered: Counter[int] = field(default_factory=Counter)
    dropped: int = 0
    parsed: int = 0
    wrong: list[str] = field(default_factory=list)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parse = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parse.add_argument("--requests", type=int, default=100_000, help="how many (%(default)s)")
    parse.add_argument("--seed", type=int, default=1, help="of what is sent (%(default)s)")
    return parse


def address_of(kind: Kind) -> str:
    """The loopback address that attacks of this kind come from."""
    return f"127.0.1.{KINDS.index(kind) + 1}"


def connect(source: str, port: int) -> socket.socket:
    """A connection to the daemon, from an address."""
    sock = socket.socket()
    try:
        sock.settimeout(ATTACK_SECONDS)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", port))
    except BaseException:
        sock.close()
        raise
    return sock


def send(attack: Attack, source: str, port: int) -> bytes:
    """Carry out one attack on a connection of its own; what came back."""
    received = b""
    with connect(source, port) as sock:
        # The server may refuse, and hang up, before everything is sent.
        with contextlib.suppress(ConnectionError):
            sock.sendall(attack.data)
            if attack.ending is Ending.RESET:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if attack.ending is not Ending.STOP:
                return b""
            # What was reset already cannot be ended any more.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                received += data
    return received


def judge(kind: Kind, attack: Attack, received: bytes, tally: Tally) -> None:
    """Count an attack, and note what should not have come of it."""
    tally.sent += 1
    tally.parsed += attack.parsed
    found, bodies = statuses(received)
    tally.answered.update(found)
    if not found:
        tally.dropped += 1
        if not kind.drops:
            tally.wrong.append("no answer")
    for status, body in zip(found, bodies, strict=True):
        if status not in kind.answers:
            tally.wrong.append(f"answered with {status}")
        elif kind.faults and not is_fault(body):
            tally.wrong.append(f"carried out: {body[:300]!r}")


def is_fault(body: bytes) -> bool:
    """Whether an answer says that the method raised."""
    try:
        encoding.decode_answer(body)
    except RpcFault:
        return True
    return False


class Assault:
    """Attacks by several threads at once."""

    def __init__(self, target: Target, port: int, seed: int) -> None:
        self._port = port
        self._forgers = [Forger(target, f"{seed}/{number}") for number in range(THREADS)]
        self._deck = [kind for kind in KINDS for _ in range(kind.weight)]
        self._lock = threading.Lock()
        self.tallies = {kind.name: Tally() for kind in KINDS}
        self._broken: list[str] = []
        for forger in self._forgers:
            # Before its first transmission no counter of a client is far behind.
            self._carry_out(forger, COUNTED)

    @property
    def sent(self) -> int:
        """How many attacks there have been."""
        return sum(tally.sent for tally in self.tallies.values())

    def attack(self, number: int) -> None:
        """`number` attacks. Raises `RuntimeError` if one cannot be carried out."""
        threads = [
            threading.Thread(target=self._work, args=(forger, len(range(i, number, THREADS))))
            for i, forger in enumerate(self._forgers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._broken:
            raise RuntimeError(f"the daemon does not answer any more: {self._broken}")

    def _work(self, forger: Forger, number: int) -> None:
        try:
            for _ in range(number):
                kind = forger.rng.choice(self._deck)
                self._carry_out(forger, kind)
        except Exception as error:  # for the thread that waits for this one
            self._broken.append(f"{kind.name}: {type(error).__name__}: {error}")

    def _carry_out(self, forger: Forger, kind: Kind) -> None:
        attack = kind.make(forger)
        received = send(attack, address_of(kind), self._port)
        with self._lock:
            judge(kind, attack, received, self.tallies[kind.name])


@contextlib.contextmanager
def driving(spec: Spec, log: Path) -> Iterator[subprocess.Popen[str]]:
    """A driver, killed at the end of the block if it is not done; its second epoch has begun."""
    with open(log, "w") as messages:
        process = subprocess.Popen(
            [sys.executable, "-m", "testbed.fuzz_driver", json.dumps(asdict(spec))],
            cwd=Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        )
        with process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():
                    raise RuntimeError(f"the driver ended at once: {log.read_text()[-3_000:]}")
                yield process
            finally:
                if process.poll() is None:
                    process.kill()


def to_the_end(driver: subprocess.Popen[str]) -> None:
    """Wait for a driver's end. Raises `RuntimeError` if it does not come, or is not a good one."""
    try:
        driver.communicate(timeout=END_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError("the search does not come to its end") from None
    if driver.returncode != 0:
        raise RuntimeError(f"the driver ended with {driver.returncode}")


def steady_gauges(pid: int) -> Gauges:
    """The median of some samples: connections that have just been closed take a moment to go."""
    pause = threading.Event()
    samples = []
    for _ in range(GAUGE_SAMPLES):
        pause.wait(GAUGE_PACE_SECONDS)
        samples.append(read_gauges(pid))
    return median(samples)


def be_remembered(make_client: Callable[[], Client]) -> None:
    """Call as most of the clients that a worker remembers, which takes memory by right.

    With as many as that it would forget the attackers, whose forged calls would all be refused.
    """
    for _ in range(DEFAULT_LIMITS.max_clients * 3 // 4):
        with contextlib.closing(make_client()) as client:
            client.call("describe", ATTACK_SECONDS)


def make_target(worker: Worker, key: bytes, secret: Path, marks: Path) -> Target:
    """What can be known of a daemon that holds a run."""
    client = Client(worker.url, key, secret_path=str(secret))
    held = client.call("describe", ATTACK_SECONDS)["held"]
    boot_id = client.boot_id
    client.close()
    ticket = {"run": held["run"], "generation": held["generation"], "incarnation": 1}
    return Target(key, boot_id, 0, ticket, marks)


def contents(run: Path) -> tuple[bytes, list[tuple[Any, ...]]]:
    """(the last weights' file, every metric of every epoch) of a run."""
    result = cerebro.load(run)
    metrics = ["train_loss", "train_error", "valid_loss", "valid_error"]
    history = list(result.history[["epoch", *metrics]].itertuples(index=False, name=None))
    return Path(result.models["checkpoint"][0]).read_bytes(), history


def disturbances(run: Path) -> list[str]:
    """What shows in a run's tables and journal of a worker that was disturbed."""
    outcomes = cerebro.load(run).units["outcome"].value_counts().to_dict()
    found = [f"{number} attempts {name}" for name, number in outcomes.items()]
    found = [] if set(outcomes) == {"committed"} else found
    for record in read_journal(RunPaths(run))[0]:
        if isinstance(record, WorkerStateRecord) and record.state in TROUBLES:
            found.append(f"worker {record.state.value}: {record.reason or ''}")
    return found


def check_counts(tallies: dict[str, Tally], counts: Counter[tuple[str, str]]) -> list[str]:
    """Where the daemon parsed or carried out what it should not have."""
    wrong = []
    for kind in KINDS:
        source, expected = address_of(kind), tallies[kind.name].parsed
        for parse in PARSERS:
            number = counts[source, parse]
            if number > expected or (kind.proper and parse == XML and number != expected):
                wrong.append(f"{kind.name}: {parse} {number} times, {expected} were signed")
        if counts[source, RETURNED]:
            wrong.append(f"{kind.name}: {counts[source, RETURNED]} calls carried out")
        if counts[source, CALLED] and not kind.faults:
            wrong.append(f"{kind.name}: {counts[source, CALLED]} calls begun")
    for what in (*PARSERS, CALLED, RETURNED):
        if counts[SLOW_ADDRESS, what]:
            wrong.append(f"slow: {what} {counts[SLOW_ADDRESS, what]} times")
    return wrong


def print_kinds(assault: Assault, trickle: Trickle, counts: Counter[tuple[str, str]]) -> None:
    """The table by kind."""
    print(
        f"\n{'kind':<24}{'sent':>7}  {'answered':<34}{'dropped':>8}{'signed':>8}{'parsed':>8}"
        f"{'executed':>10}"
    )
    slow = Tally(trickle.sent, trickle.answered, trickle.dropped)
    for name, source, tally in [
        *((kind.name, address_of(kind), assault.tallies[kind.name]) for kind in KINDS),
        ("slow", SLOW_ADDRESS, slow),
    ]:
        answered = ", ".join(f"{s}: {n}" for s, n in sorted(tally.answered.items()))
        print(
            f"{name:<24}{tally.sent:>7}  {answered:<34}{tally.dropped:>8}{tally.parsed:>8}"
            f"{counts[source, XML]:>8}{counts[source, RETURNED]:>10}"
        )


def print_gauges(before: Gauges, early: Gauges, late: Gauges) -> list[str]:
    """The daemon's table; what grew too much since the early mark."""
    print(f"\n{'daemon':<12}{'before':>10}{'at 10 %':>10}{'after':>10}{'growth %':>10}")
    grown = []
    for name, gauge, old, new, growth in rows("daemon", early, late):
        print(f"{gauge:<12}{getattr(before, gauge):>10.0f}{old:>10.0f}{new:>10.0f}{growth:>10.2f}")
        if growth >= LIMIT:
            grown.append(f"{gauge} of the {name} grew by {growth:.1f} %")
    return grown


def print_visits(name: str, opened: int, visits: Visits) -> list[str]:
    """What clients that came anew had to wait for; those that got no answer."""
    slowest = max(visits.seconds, default=0.0)
    print(
        f"{name}: {opened} connections opened; {len(visits.seconds)} new clients answered, the "
        f"slowest in {slowest:.2f} s"
    )
    if not visits.seconds:
        return [f"{name}: no new client was answered"]
    return [f"{name}: a new client was not answered: {text}" for text in visits.failures]


def main() -> int:
    """Run the attack; returns the exit status."""
    arguments = parser().parse_args()
    requirements.require(requirements.linux(), requirements.memory(0.5), requirements.disk(0.5))
    folder = Path(tempfile.mkdtemp(prefix="cerebro-fuzz-"))
    report, marks, secret = folder / "report.json", folder / "marks", folder / "secret"
    marks.mkdir()
    rng = random.Random(arguments.seed)
    paths = {name: folder / name for name in ("train0", "train1", "train2", "valid0")}
    for path in paths.values():
        path.write_text("".join(f"{rng.random()}\n" for _ in range(200)))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        create_secret(str(secret))
        worker = stack.enter_context(
            Worker(
                folder / "worker",
                secret,
                prefix=[sys.executable, "-m", "testbed.watched_worker", str(report)],
                environment={"PYTHONPATH": _python_path()},
            )
        )
        spec = Spec(
            url=worker.url,
            secret_file=str(secret),
            train=[str(p) for n, p in paths.items() if n.startswith("train")],
            valid=[str(paths["valid0"])],
            ckpt_root=str(folder / "shared"),
            run_name="attacked",
            stop=str(folder / "stop"),
            epochs=0,
            heartbeat=HEARTBEAT_SECONDS,
        )
        port = parse_url(worker.url)[1]
        pid = worker.process.pid
        with driving(spec, folder / "attacked.log") as driver:
            target = make_target(worker, load_secret(str(secret)).key, secret, marks)
            executors = worker.executors()
            before = steady_gauges(pid)
            assault = Assault(target, port, arguments.seed)
            slow = Forger(target, f"{arguments.seed}/slow")
            trickle = Trickle(lambda: connect(SLOW_ADDRESS, port), slow, SLOW_HEADS, SLOW_BODIES)
            held = FloodSpec(
                port=port,
                sources=[FLOOD_ADDRESS],
                idle=FLOOD_IDLE,
                greeting=FLOOD_GREETING,
                trickling=FLOOD_TRICKLING,
                hello=slow.hello().bytes().decode("ascii"),
            )
            rapid = FloodSpec(port=port, sources=[FLOOD_ADDRESS, OWN_ADDRESS], rapid=True)

            def visitor() -> Client:
                return Client(worker.url, target.key, secret_path=str(secret))

            def attack(number: int) -> None:
                with flooding(held) as opened, visiting(visitor, VISIT_SECONDS) as visits:
                    assault.attack(number)
                held_opened.extend(opened)
                held_visits.add(visits)

            def burst() -> None:
                with flooding(rapid) as opened, visiting(visitor, VISIT_SECONDS) as visits:
                    threading.Event().wait(RAPID_SECONDS)
                rapid_opened.extend(opened)
                rapid_visits.add(visits)

            held_opened: list[int] = []
            held_visits = Visits()
            rapid_opened: list[int] = []
            rapid_visits = Visits()
            trickle.start()
            try:
                attack(arguments.requests // 10)
                burst()
                if arguments.requests >= DECIDING_REQUESTS:
                    be_remembered(visitor)
                early = late = steady_gauges(pid)
                resident = [early.resident]
                while (left := arguments.requests - assault.sent) > 0:
                    attack(min(left, max(arguments.requests // 10, LEAST_LEG)))
                    if assault.sent >= arguments.requests:
                        burst()
                    late = steady_gauges(pid)
                    resident.append(late.resident)
                    print(
                        f"{assault.sent} requests; the daemon has {late.resident:.0f} KiB",
                        flush=True,
                    )
            finally:
                trickle.stop()
            same_executors = worker.executors() == executors
            Path(spec.stop).touch()
            to_the_end(driver)
        attacked = contents(folder / "shared" / "attacked")
        disturbed = disturbances(folder / "shared" / "attacked")
        alone = replace(spec, run_name="alone", epochs=len(attacked[1]))
        with driving(alone, folder / "alone.log") as driver:
            to_the_end(driver)
        same_result = attacked == contents(folder / "shared" / "alone")
        left_marks = sorted(path.name for path in marks.iterdir())
        stopped_in_order = worker.stop()
        counts = read_report(report)
    print_kinds(assault, trickle, counts)
    step = max(0.0, *(after - at for at, after in itertools.pairwise(resident)))
    grown = print_gauges(before, early, replace(late, resident=late.resident - step))
    print(f"the largest step of resident, which is left out: {step:.0f} KiB")
    print()
    kept_out = print_visits("held", sum(held_opened), held_visits)
    kept_out += print_visits("rapid", sum(rapid_opened), rapid_visits)
    print(f"\nepochs of the search under attack: {len(attacked[1])}")
    wrong = []
    for name, tally in assault.tallies.items():
        wrong += [f"{name}: {text} ({n} times)" for text, n in Counter(tally.wrong).items()]
    wrong += check_counts(assault.tallies, counts) + kept_out
    wrong += [f"the search was disturbed: {text}" for text in disturbed]
    wrong += [f"a forged call left the file {name}" for name in left_marks]
    if not same_executors:
        wrong.append("the executor was replaced")
    if not same_result:
        wrong.append("weights or metrics are not those of the same search without an attack")
    if not stopped_in_order:
        wrong.append("the daemon did not stop when it was told to")
    if arguments.requests >= DECIDING_REQUESTS:
        wrong += grown
    else:
        print(f"growth decides nothing below {DECIDING_REQUESTS} requests")
    for text in wrong:
        print(f"WRONG: {text}")
    print("FAILED" if wrong else "nothing wrong")
    return 1 if wrong else 0


def _python_path() -> str:
    before = os.environ.get("PYTHONPATH")
    return os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])


if __name__ == "__main__":
    sys.exit(main())
