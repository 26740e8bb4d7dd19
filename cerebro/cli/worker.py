"""`cerebro-standalone-worker`: parse, check, log, run."""

from __future__ import annotations

import argparse
import ipaddress
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from types import FrameType

from cerebro import machine
from cerebro.cli import output
from cerebro.cli.parser import USAGE_ERROR, Parser
from cerebro.errors import CerebroError
from cerebro.rpc import DEFAULT_PORT, Server, load_secret
from cerebro.version import __version__
from cerebro.worker.daemon import Daemon, Resources
from cerebro.worker.daemon_log import log_to_stderr

logger = logging.getLogger("cerebro.worker")


def parser() -> argparse.ArgumentParser:
    """Build the command line's parser."""
    parse = Parser(
        prog="cerebro-standalone-worker",
        description="Train units of model selection runs for drivers that hold the same secret.",
    )
    parse.add_argument(
        "--hostname", default="0.0.0.0", help="address to listen on (default: %(default)s, all)"
    )
    parse.add_argument(
        "--port", default=DEFAULT_PORT, type=int, help="port to listen on (default: %(default)s)"
    )
    parse.add_argument(
        "--secret-file",
        help="file with the shared secret (default: $CEREBRO_SECRET_FILE, else ~/.cerebro/secret)",
    )
    parse.add_argument(
        "--threads", type=int, help="CPU threads for training (default: all cores of this process)"
    )
    parse.add_argument("--gpu", type=int, help="use only the GPU with this number")
    parse.add_argument("--gpu-memory-gb", type=float, help="use at most this much of its memory")
    parse.add_argument(
        "--log-level",
        default="INFO",
        choices=["DEBUG", "INFO", "WARNING", "ERROR"],
        help="how much to log to standard error (default: %(default)s)",
    )
    parse.add_argument("--version", action="version", version=f"cerebro-dl {__version__}")
    return parse


def check_arguments(arguments: argparse.Namespace) -> Resources:
    """Return the resources that the arguments ask for; `ValueError` if they are not valid."""
    if not 0 <= arguments.port <= 65_535:
        raise ValueError(f"--port {arguments.port}: must be between 0 (any free port) and 65535")
    if arguments.threads is not None and arguments.threads < 1:
        raise ValueError(f"--threads {arguments.threads}: must be at least 1")
    if arguments.gpu is not None and arguments.gpu < 0:
        raise ValueError(f"--gpu {arguments.gpu}: GPUs are numbered from 0")
    if arguments.gpu_memory_gb is not None and not 0 < arguments.gpu_memory_gb < math.inf:
        raise ValueError(f"--gpu-memory-gb {arguments.gpu_memory_gb}: must be a number above 0")
    return Resources(
        threads=arguments.threads or machine.available_threads(),
        gpu=arguments.gpu,
        gpu_memory_gb=arguments.gpu_memory_gb,
    )


def loopback_warning(hostname: str) -> str | None:
    """Return a warning if other hosts could not reach this worker by this name."""
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(hostname, None)}
    except (OSError, UnicodeError):
        return None
    loopback = all(ipaddress.ip_address(str(a).split("%")[0]).is_loopback for a in addresses)
    if not addresses or not loopback or hostname in ("localhost", *addresses):
        return None
    shown = ", ".join(sorted(str(a) for a in addresses))
    return (
        f"{hostname} resolves to {shown} only, which no other host can reach: "
        "use --hostname 0.0.0.0, or correct /etc/hosts"
    )


def explain_bind_error(hostname: str, port: int, error: OSError | UnicodeError) -> str:
    """Say in one line what to do about an address that cannot be listened on."""
    if isinstance(error, UnicodeError):
        return f"--hostname {hostname}: this is not a valid host name: use 0.0.0.0 for all"
    if isinstance(error, socket.gaierror):
        return (
            f"--hostname {hostname}: no such host ({error.strerror}): use 0.0.0.0 for all addresses"
        )
    if isinstance(error, PermissionError):
        return f"--port {port}: not permitted: choose a port above 1023"
    if error.errno is not None and "in use" in str(error).lower():
        return (
            f"port {port} on {hostname} is taken, perhaps by another worker: "
            "stop that one, or choose another --port"
        )
    return f"cannot listen on {hostname}:{port}: {error.strerror or error}: check --hostname"


def describe_machine(resources: Resources) -> tuple[str, list[str]]:
    """Return `TF 2.21.0, 2 threads, no GPU`, which the worker logs at its start, and GPU names.

    Raises `ValueError` for a GPU that was asked for and is not there. Where there may be one, this
    takes the seconds in which TensorFlow loads.
    """
    version = machine.tensorflow_version()
    parts = [f"TF {version}" if version else "no TensorFlow (backend 'python' only)"]
    parts.append(f"{resources.threads} thread{'s' if resources.threads > 1 else ''}")
    if resources.gpu is None and not machine.has_nvidia_gpu():
        return ", ".join([*parts, "no GPU"]), []
    devices = machine.tensorflow_devices(resources.environment()) if version else []
    if resources.gpu is not None and resources.gpu >= len(devices):
        raise ValueError(
            f"--gpu {resources.gpu}: {f'TensorFlow {version}' if version else 'no TensorFlow'} "
            f"sees {len(devices)} GPUs here, numbered from 0: name one of them, or leave --gpu out"
        )
    if not devices:
        logger.warning(
            "this host has a GPU that TensorFlow cannot use: install tensorflow[and-cuda], "
            "or a TensorFlow built for its driver"
        )
        return ", ".join([*parts, "no GPU that TensorFlow can use"]), []
    if resources.gpu is not None:
        devices = devices[resources.gpu : resources.gpu + 1]
    return ", ".join([*parts, *(f"GPU {name}" for name in devices)]), devices


def main(argv: Sequence[str] | None = None) -> int:
    """Run the worker's command; returns the exit status, 2 for what the user can correct."""
    arguments = parser().parse_args(argv)
    machine.bound_heap()
    log_to_stderr(arguments.log_level, "%(asctime)s %(levelname)s %(message)s")
    try:
        resources = check_arguments(arguments)
        secret = load_secret(arguments.secret_file)
    except (ValueError, CerebroError) as error:
        return _refuse(str(error))
    # Until there is something to end in order, a signal ends this process at once.
    _at_signals(lambda *_: sys.exit(0))
    warning = loopback_warning(arguments.hostname)
    if warning:
        logger.warning("%s", warning)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    daemon = Daemon(resources, logging.getLevelName(arguments.log_level), lambda: wake.send(b"\0"))
    try:
        server = Server(arguments.hostname, arguments.port, secret.key, daemon.methods())
    except (OSError, UnicodeError) as error:
        return _refuse(explain_bind_error(arguments.hostname, arguments.port, error))
    try:
        description, daemon.devices = describe_machine(resources)
    except ValueError as error:
        return _refuse(str(error))
    # From here on nothing is done in a handler, which may interrupt code that holds a lock. The
    # system may give a signal to any thread; what it writes wakes this one.
    signal.set_wakeup_fd(wake.fileno())
    _at_signals(lambda *_: None)
    server.start()
    host, port = server.address[:2]
    logger.info("cerebro-dl %s worker on %s:%d", __version__, host, port)
    logger.info("%s; secret %s", description, secret.path)
    woken.recv(1)
    logger.info("stopping")
    daemon.leave()
    server.close()
    return 0


def _at_signals(handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Under nohup a terminal that is closed is none of its business.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def _refuse(message: str) -> int:
    output.remark(f"cerebro-standalone-worker: {message}")
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
