"""What the suite promises of itself: marks tell the truth, and nothing is left behind.

A test that starts a process, or imports TensorFlow, says so by a mark, so that `-m` can leave it
out: one that does it without the mark fails. At the end of the session every process that tests
started must be gone.
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from patience import SOON

STARTS = {"subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system"}
"""Audit events of a new process."""

DEEDS = {
    "processes": ("starts a process", {"processes", "tf", "slow"}),
    "tf": ("imports TensorFlow", {"tf"}),
}
"""What a test that is not fast does, and the marks of which one must say so."""

WITH_PROCESSES = {"cluster", "one_worker", "shared_worker", "ship", "start_worker"}
"""Fixtures that start processes."""

WHOLE_FILE = re.compile(r"^pytestmark = .*\bmark\.tf\b", re.MULTILINE)
"""A file whose tests all need TensorFlow, and which may import it at its top."""

SESSION = "CEREBRO_TEST_SESSION"
"""A variable in the environment of all that this process starts."""


class Guards:
    """The plugin; one for each process of pytest."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._without_tf = "not tf" in config.getoption("markexpr")
        self._done: list[str] = []
        self._left: list[str] = []
        self._id = os.environ[SESSION] = uuid.uuid4().hex
        sys.addaudithook(self._heard)

    def _heard(self, event: str, args: tuple[object, ...]) -> None:
        if event in STARTS:
            self._done.append("processes")
        elif event == "import" and args[0] == "tensorflow":
            self._done.append("tf")

    # --- marks -----------------------------------------------------------------------------------

    @pytest.hookimpl
    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        """Do not import what imports TensorFlow for tests that will not run."""
        if not self._without_tf or collection_path.suffix != ".py":
            return None
        return True if WHOLE_FILE.search(collection_path.read_text()) else None

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Mark the tests whose fixtures start processes."""
        for item in items:
            if WITH_PROCESSES & set(getattr(item, "fixturenames", ())):
                item.add_marker("processes")
        if self._without_tf and "tensorflow" in sys.modules:
            raise pytest.UsageError("a test file imports TensorFlow at its top: mark all of it tf")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> object:
        """Hear what a test does from here on."""
        self._done.clear()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> object:
        """Fail a test that has done what its marks do not say."""
        report = yield
        marked = {mark.name for mark in item.iter_markers()}
        for deed in dict.fromkeys(self._done):
            what, enough = DEEDS[deed]
            if report.passed and not marked & enough:
                report.outcome = "failed"
                report.longrepr = f"{item.nodeid} {what}, and is not marked {deed!r}"
        self._done.clear()
        return report

    # --- what is left ----------------------------------------------------------------------------

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the session if a process that a test has started is still there."""
        if not self._config.getoption("numprocesses", None):
            self._left += self._alive()
        if hasattr(self._config, "workeroutput"):
            self._config.workeroutput["left"] = self._left
        elif self._left and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over what a process of xdist has found."""
        self._left += getattr(node, "workeroutput", {}).get("left", [])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name what was left behind."""
        for process in self._left:
            terminalreporter.write_line(f"LEFT BEHIND by a test: process {process}", red=True)

    def _alive(self) -> list[str]:
        """What has not ended a little after the last test."""
        expires = time.monotonic() + SOON / 10
        while (found := self._processes()) and time.monotonic() < expires:
            time.sleep(0.1)
        return found

    def _processes(self) -> list[str]:
        """Processes of this session that are alive, with their command lines (on Linux)."""
        mine = f"{SESSION}={self._id}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if mine not in environment and parent != str(os.getpid()):
                continue
            # The standard library's own helper ends with this process.
            if command and "resource_tracker" not in command:
                found.append(f"{folder.name} {command}")
        return found


__all__ = ["Guards"]
