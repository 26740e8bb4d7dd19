"""One random order for several arrays, the same on every worker."""

from __future__ import annotations

import numpy as np
import pytest

from cerebro.data import shuffled
from cerebro.errors import InputError
from cerebro.seeding import derive, seed_generators

ROWS = np.arange(50)


def test_rows_stay_together_and_the_arguments_as_they_are():
    features = np.stack([ROWS, -ROWS], axis=1)
    first, second = shuffled([features, ROWS], seed=3)
    assert first.shape == (50, 2)
    assert (first[:, 0] == second).all()
    assert sorted(second) == ROWS.tolist()
    assert second.tolist() != ROWS.tolist()
    assert (features[:, 0] == np.arange(50)).all()


def test_the_order_follows_what_the_library_seeds_by_partition():
    orders = []
    for path in ("a", "a", "b"):
        seed_generators(derive(0, "input", path))
        orders.append(shuffled([ROWS])[0].tolist())
    assert orders[0] == orders[1] != orders[2]


def test_a_seed_of_ones_own_leaves_the_global_generator_alone():
    np.random.seed(0)
    orders = [shuffled([ROWS], seed=seed)[0].tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    drawn = np.random.rand()
    np.random.seed(0)
    assert drawn == np.random.rand()


@pytest.mark.parametrize(
    "arrays", [[], [ROWS, ROWS[1:]], [np.float64(1)], [ROWS, np.float64(1)]], ids=str
)
def test_arrays_that_cannot_be_shuffled_alike(arrays):
    with pytest.raises(InputError, match="first dimension"):
        shuffled(arrays)


@pytest.mark.parametrize("seed", [-1, 0.5, "1"])
def test_a_seed_that_is_none(seed):
    with pytest.raises(InputError, match=r"seed=.* must be an integer of 0 or more"):
        shuffled([ROWS], seed=seed)
