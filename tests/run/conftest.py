"""Clusters of real processes, and a small model that any Python can train."""

from __future__ import annotations

import pytest

import cerebro


@pytest.fixture(scope="module")
def cluster():
    """Two workers that the tests of a module share; each run gets new executors."""
    with cerebro.LocalCluster(2, threads=1) as cluster:
        yield cluster
