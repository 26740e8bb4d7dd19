"""Keras' global state and random generators, one of each for a model.

Keras numbers the names of layers and metrics on through a process, and has policies for types and a
generator for random numbers that all models share. A model's names and numbers must depend on
nothing but the model. So each has a state of its own, which is Keras' while the model is at work.
`keras.utils.clear_session`, the public way to a fresh state, knows none back to an earlier one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from cerebro.backends.keras.private import (
    global_state_of,
    set_global_generator,
    set_global_seed,
)
from cerebro.backends.keras.runtime import keras, tf
from cerebro.backends.tf.private import another_seed, global_seed, set_seed_keeping_kernels
from cerebro.seeding import kept_generators, seed_generators

SEEDS = 64
"""After so many seeds TensorFlow's kernels are forgotten."""

_used: set[int] = set()


def _settings() -> tuple[str, float, str]:
    config = keras.config
    return config.floatx(), config.epsilon(), config.image_data_format()


def _set(settings: tuple[str, float, str]) -> None:
    floatx, epsilon, image_data_format = settings
    keras.config.set_floatx(floatx)
    keras.config.set_epsilon(epsilon)
    keras.config.set_image_data_format(image_data_format)


class Scope:
    """The global state of one model."""

    def __init__(self) -> None:
        self._state = threading.local()
        self._settings = _settings()
        self._generator: keras.random.SeedGenerator | None = None

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This state as Keras' own inside the block; the one before after it."""
        settings = _settings()
        with global_state_of(self._state):
            _set(self._settings)
            try:
                yield
            finally:
                self._settings = _settings()
                _set(settings)

    def seed(self, seed: int) -> None:
        """Seed the generators of Python, NumPy, TensorFlow and Keras.

        Compiled functions of a model that is kept hold on to Keras' generator. So it stays the
        same one, and is set to what a new one would be.
        """
        seed_all(seed)
        if self._generator is None:
            self._generator = keras.random.SeedGenerator(seed)
        self._generator.state.assign([seed, 0])
        set_global_generator(self._generator)

    @contextmanager
    def aside(self, seed: int) -> Iterator[None]:
        """Other seeds for all generators inside the block; after it they are as they were."""
        assert self._generator is not None
        state = self._generator.state.numpy()
        with another_seed(seed), kept_generators():
            seed_generators(seed)
            self._generator.state.assign([seed, 0])
            try:
                yield
            finally:
                self._generator.state.assign(state)


def seed_all(seed: int) -> None:
    """What `keras.utils.set_random_seed` does, but for a cost that most units can do without.

    To seed TensorFlow is to forget its kernels, because a random op that has run with this seed
    before would continue where it stopped. All compiled functions are then prepared to run once
    more, which takes as long as some steps. So kernels are forgotten only when a seed comes again,
    and once in a while, since random ops that run eagerly leave one for each seed.
    """
    seed_generators(seed)
    set_global_seed(seed)
    if seed in _used or len(_used) >= SEEDS:
        _used.clear()
        tf.random.set_seed(seed)
    _used.add(seed)
    set_seed_keeping_kernels(seed)


@contextmanager
def restored_generators() -> Iterator[None]:
    """The generators of Python, NumPy and TensorFlow as they were, after the block."""
    tensorflow = global_seed()
    with kept_generators():
        try:
            yield
        finally:
            tf.random.set_seed(tensorflow)
