"""Workers and rows are matched: as many as can be, and those served first before all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hypothesis import given
from hypothesis import strategies as st

from cerebro.hopper.bitset import bits
from cerebro.hopper.placement.matching import Matching

WORKERS, ROWS = 6, 6


def first(_: int, rows: int) -> int:
    return next(bits(rows))


def most(adjacent: Mapping[int, Iterable[int]]) -> int:
    """The size of a maximum matching, by Kuhn's algorithm."""
    owner: dict[int, int] = {}

    def augments(worker: int, seen: set[int]) -> bool:
        for row in adjacent[worker]:
            if row not in seen:
                seen.add(row)
                if row not in owner or augments(owner[row], seen):
                    owner[row] = worker
                    return True
        return False

    return sum(augments(worker, set()) for worker in adjacent)


def covered_first(nodes: Iterable[int], adjacent: Mapping[int, Iterable[int]]) -> set[int]:
    """The nodes of one side that are covered if each is, in turn, wherever that can be."""
    found: list[int] = []
    for node in nodes:
        if most({n: adjacent[n] for n in [*found, node]}) > len(found):
            found.append(node)
    return set(found)


graphs = st.lists(st.integers(0, (1 << ROWS) - 1), min_size=1, max_size=WORKERS)


@given(rows=graphs, order=st.randoms(use_true_random=False))
def test_serving_all_workers_gives_a_maximum_matching(rows, order):
    matching = Matching(dict(enumerate(rows)), lambda _, free: order.choice(list(bits(free))))
    for worker in order.sample(range(len(rows)), len(rows)):
        matching.serve_worker(worker)
    assert len(matching.row_of) == most({w: list(bits(r)) for w, r in enumerate(rows)})


@given(rows=graphs, order=st.randoms(use_true_random=False))
def test_who_is_served_first_is_covered_whoever_is_served_later(rows, order):
    """On either side the same nodes are covered as if the other had not been served at all."""
    workers = {worker: list(bits(mine)) for worker, mine in enumerate(rows)}
    columns = {row: [w for w in workers if row in workers[w]] for row in range(ROWS)}
    nodes = [(False, worker) for worker in workers] + [(True, row) for row in columns]
    order.shuffle(nodes)
    matching = Matching(dict(enumerate(rows)), first)
    for is_row, number in nodes:
        if is_row:
            matching.serve_row(number)
        else:
            matching.serve_worker(number)
    pairs = matching.row_of
    assert all(row in workers[worker] for worker, row in pairs.items())
    assert len(set(pairs.values())) == len(pairs)
    assert set(pairs) >= covered_first((n for is_row, n in nodes if not is_row), workers)
    assert set(pairs.values()) >= covered_first((n for is_row, n in nodes if is_row), columns)


def test_a_worker_gives_way_to_a_more_critical_one_that_can_do_nothing_else():
    matching = Matching({0: 0b11, 1: 0b01}, first)
    matching.serve_worker(0)
    assert matching.row_of == {0: 0}
    matching.serve_worker(1)
    assert matching.row_of == {0: 1, 1: 0}


def test_a_worker_that_was_not_served_loses_its_row_to_one_that_is():
    matching = Matching({0: 0b1, 1: 0b1}, first)
    matching.serve_row(0)
    assert matching.row_of == {0: 0}, "rows prefer workers in the order given"
    matching.serve_worker(1)
    assert matching.row_of == {1: 0}
    matching.serve_worker(0)
    assert matching.row_of == {1: 0}, "it was served too late"


def test_a_free_worker_gets_the_row_that_is_preferred():
    matching = Matching({0: 0b111}, lambda _, rows: rows.bit_length() - 1)
    matching.serve_worker(0)
    assert matching.row_of == {0: 2}
