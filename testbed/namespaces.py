"""Hosts with addresses of their own: Linux network namespaces on a bridge.

The bridge lies in this process's own network namespace, so that a driver here reaches the hosts
without further ado. Names and subnet are this process's own, so that several networks can stand
beside each other. Everything is undone by `Network.close`.
"""

from __future__ import annotations

import contextlib
import functools
import ipaddress
import itertools
import json
import os
import shutil
import subprocess

COMMANDS = ("ip", "nft", "nsenter")
COMMAND_SECONDS = 10.0
SUBNETS = 1 << 14
"""Candidates for a subnet: 10.192.0.0/24 and the following ones."""

_numbers = itertools.count()


@functools.cache
def available() -> str | None:
    """Why there can be no such hosts here; None if there can."""
    if os.name != "posix" or os.geteuid() != 0:
        return "network namespaces need root"
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        return f"network namespaces need the command {missing[0]}"
    try:
        with Network(1) as network:
            network.hosts[0].lose(0.5)
    except OSError as error:
        return f"network namespaces do not work here: {error}"
    return None


class Host:
    """One host: `prefix` before a command runs it there, with the process id of the command."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace = namespace
        self.address = address
        # Unlike `ip netns exec` this leaves the mounts alone, which are to be changed for all.
        self.prefix = ["nsenter", f"--net=/run/netns/{namespace}"]

    def cut(self) -> None:
        """Pull the cable."""
        _run("ip", "-n", self.namespace, "link", "set", "eth0", "down")

    def black_hole(self, port: int) -> None:
        """Let what comes for a port vanish without an answer."""
        self._filter(f"tcp dport {port} drop")

    def refuse(self, port: int) -> None:
        """Answer what comes for a port with a reset."""
        self._filter(f"tcp dport {port} reject with tcp reset")

    def lose(self, probability: float) -> None:
        """Lose incoming packets at random."""
        self._filter(f"numgen random mod 1000 < {round(1000 * probability)} drop")

    def heal(self) -> None:
        """Undo all of the above."""
        self._nft("add table inet faults; delete table inet faults")
        _run("ip", "-n", self.namespace, "link", "set", "eth0", "up")

    def _filter(self, rule: str) -> None:
        chain = "inet faults input"
        self._nft(
            f"add table inet faults; "
            f"add chain {chain} {{ type filter hook input priority 0; }}; add rule {chain} {rule}"
        )

    def _nft(self, commands: str) -> None:
        _run(*self.prefix, "nft", commands)


class Network:
    """`with Network(3) as network:` makes three hosts, `network.hosts`, that this process reaches.

    Raises `OSError` where that cannot be done; see `available`.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        # Interface names have 15 characters at most.
        self._name = f"cb{os.getpid():x}n{next(_numbers)}"
        self._undo = contextlib.ExitStack()
        self.hosts: list[Host] = []

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the hosts down. What still runs in them has no network any more."""
        self._undo.close()
        self.hosts = []

    def _build(self) -> None:
        _run("ip", "link", "add", self._name, "type", "bridge")
        self._later("ip", "link", "del", self._name)
        addresses = (str(address) for address in _free_subnet().hosts())
        _run("ip", "addr", "add", f"{next(addresses)}/24", "dev", self._name)
        _run("ip", "link", "set", self._name, "up")
        for number in range(self._count):
            self._add_host(f"{self._name}-{number}", f"{self._name}v{number}", next(addresses))

    def _add_host(self, namespace: str, cable: str, address: str) -> None:
        _run("ip", "netns", "add", namespace)
        self._later("ip", "netns", "del", namespace)
        peer = ["type", "veth", "peer", "name", "eth0", "netns", namespace]
        _run("ip", "link", "add", cable, *peer)
        # Named apart from the namespace, which lives on while a process is in it.
        self._later("ip", "link", "del", cable)
        _run("ip", "link", "set", cable, "master", self._name, "up")
        _run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _run("ip", "-n", namespace, "link", "set", "lo", "up")
        _run("ip", "-n", namespace, "link", "set", "eth0", "up")
        self.hosts.append(Host(namespace, address))

    def _later(self, *command: str) -> None:
        def undo() -> None:
            with contextlib.suppress(OSError):
                _run(*command)

        self._undo.callback(undo)


def _free_subnet() -> ipaddress.IPv4Network:
    """A subnet that no route of this host touches; processes begin to look at different ones."""
    listed = json.loads(_run("ip", "-json", "-4", "route", "show", "table", "all") or "[]")
    texts = [route["dst"] for route in listed if route["dst"] != "default"]
    taken = [ipaddress.IPv4Network(text, strict=False) for text in texts]
    for step in range(SUBNETS):
        number = (os.getpid() + step) % SUBNETS
        subnet = ipaddress.IPv4Network((0x0AC00000 + (number << 8), 24))
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise OSError("every subnet below 10.192.0.0/10 is taken")


def _run(*command: str) -> str:
    """Run a command to its end. Returns what it printed; raises `OSError` with what it says."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        raise OSError(f"{' '.join(command)}: no end within {COMMAND_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
