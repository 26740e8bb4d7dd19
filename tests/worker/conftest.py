"""Drivers' sides of workers that were started by their command; all end with the test."""

from __future__ import annotations

import contextlib

import pytest
from worker_side import Side

from cerebro.errors import RpcError
from cerebro.rpc import Client, load_secret


@pytest.fixture
def connect(request):
    """Makes a driver's side of a worker: `connect(worker, run=..., generation=...)`."""
    sides = []

    def make(worker, **of):
        client = Client(worker.url, load_secret(worker.secret_file).key)
        sides.append(Side(client, **{"run": request.node.name, **of}))
        return sides[-1]

    yield make
    for side in sides:
        with contextlib.suppress(RpcError):
            side.call("close_run")
        side.client.close()


@pytest.fixture
def side(shared_worker, connect):
    """A driver's side of the shared worker, for a run of the test's name; nothing is open yet."""
    return connect(shared_worker)


@pytest.fixture
def own_worker(start_worker):
    """A worker that the test may end."""
    return start_worker()


@pytest.fixture
def own_side(own_worker, connect):
    """A driver's side of the test's own worker."""
    return connect(own_worker)
