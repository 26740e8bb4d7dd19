"""Publishing versions from values on the host, however long storage refuses."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cerebro.backends.base import Handler, chain, not_known
from cerebro.errors import StorageError
from cerebro.hopper.units import Failure
from cerebro.protocol.messages import (
    AttemptFailed,
    SaveWaits,
    UnitOrder,
    VersionPublished,
    WorkerEvent,
)
from cerebro.storage import (
    FOLDER_MODE,
    make_folder,
    publish_folder,
    remove_folder,
    sync_folder,
    temporary_beside,
)
from cerebro.worker.failures import describe

RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 30.0

OWN = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG, errno.EBADF})
"""Errors of a process that has run out of something, or has limits of its own."""


Report = Callable[[WorkerEvent], None]
"""Tells the daemon what has happened."""


class Saver:
    """Publishes versions, one at a time, from the values on the host.

    A version that storage refuses is tried again from memory, with backoff, until it succeeds
    (and at once when the next one waits for its place): the unit is not trained again. If the
    cause is this process itself, out of descriptors say, the unit has failed, and `exhausted` is
    called.
    """

    def __init__(self, handler: Handler, report: Report, exhausted: Callable[[], None]) -> None:
        self._handler = handler
        self._report = report
        self._exhausted = exhausted
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="saver")
        self._current: Future[None] | None = None
        self._wanted = threading.Event()
        self._remains: set[Path] = set()
        self._tried: Path | None = None  # the last name that was to be given to a version

    def wait_until_free(self) -> None:
        """Wait until the version being saved is published."""
        if self._current is not None:
            self._wanted.set()
            self._current.result()
            self._current = None

    def save(
        self, order: UnitOrder, state: Any, finite: Callable[[], bool | None] = not_known
    ) -> None:
        """Start to publish the version that `order` made. The state is the saver's from now on.

        `finite` tells whether its weights are.
        """
        self._current = self._pool.submit(self._save, order, state, finite)

    def _save(self, order: UnitOrder, state: Any, finite: Callable[[], bool | None]) -> None:
        try:
            self._publish(order, state, finite())
        finally:
            self._handler.recycle(state)

    def _publish(self, order: UnitOrder, state: Any, finite: bool | None) -> None:
        assert order.writes is not None
        final = Path(order.writes)
        started = time.perf_counter()
        wait = RETRY_SECONDS
        while True:
            temporary = temporary_beside(final)
            try:
                checkpoint = self._write(state, temporary, final)
                break
            except Exception as error:
                if not waits_for_storage(error):
                    self._give_up(order, error)
                    return
                cause = str(error) or type(error).__name__
                # The same cause reads the same at every try.
                cause = cause.replace(str(temporary), order.writes)
                self._report(SaveWaits(attempt=order.attempt, path=order.writes, cause=cause))
                self._wanted.wait(wait)
                self._wanted.clear()
                wait = min(2 * wait, RETRY_SECONDS_MAX)
        seconds = time.perf_counter() - started
        self._report(
            VersionPublished(
                attempt=order.attempt, checkpoint=checkpoint, save=seconds, finite=finite
            )
        )

    def _give_up(self, order: UnitOrder, error: Exception) -> None:
        """A version that this process will never be able to write: its unit runs again."""
        problem = vars(describe(error))
        self._report(AttemptFailed(attempt=order.attempt, failure=Failure.RESOURCES, **problem))
        self._exhausted()

    def _write(self, state: Any, temporary: Path, final: Path) -> str:
        # The run's folder is there: without it the storage is not mounted here, and what would
        # be made in its place nobody else could read.
        make_folder(final.parent.parent)
        make_folder(final.parent)
        # A folder that could not be removed when its try had failed takes up room until it is.
        self._remains = {path for path in self._remains if not remove_folder(path)}
        try:
            os.mkdir(temporary, FOLDER_MODE)
            name = self._handler.write(state, str(temporary))
            self._publish_once(temporary, final)
        finally:
            if not remove_folder(temporary):
                self._remains.add(temporary)
        return str(final / name)

    def _publish_once(self, temporary: Path, final: Path) -> None:
        """Publish, also where this try, or one before, got as far as the rename, whose success was
        not heard of.

        What is there then is whole: the name is given to finished folders only. What was there
        before is not this version, and must not be taken for it.
        """
        again, self._tried = self._tried == final, final
        try:
            publish_folder(temporary, final)
        except OSError as error:
            if not final.is_dir():
                raise
            if os.path.lexists(temporary) and not again:
                self._tried = None
                raise StorageError(
                    f"{final} is there already, and is no version of this run: its folder was "
                    "moved meanwhile, or somebody else writes there; move it away"
                ) from error
            sync_folder(final.parent)


def waits_for_storage(error: BaseException) -> bool:
    """Whether a version that could not be written can be written later by this process."""
    own = any(isinstance(link, OSError) and link.errno in OWN for link in chain(error))
    return isinstance(error, (OSError, StorageError)) and not own
