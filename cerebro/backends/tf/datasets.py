"""What an executor sets for every `tf.data` input in it."""

from __future__ import annotations

from typing import Any

from cerebro.backends.tf import private
from cerebro.backends.tf.runtime import tf


def disable_autotuning() -> None:
    """Have inputs tune nothing by themselves, unless the user's options say that they do.

    In TensorFlow 2.21 the thread that tunes an input is not woken when its iterator restarts or
    its session is closed, which wait for it: it sleeps its period out, and the period doubles up to
    a minute. After a pass of 5 s a session stood still for another 4.7 s. Where an input asks for
    `tf.data.AUTOTUNE`, it then has as many parallel calls as there are threads.
    """
    untuned = tf.data.Options()
    untuned.autotune.enabled = False

    def without_autotuning(dataset: Any) -> Any:
        if private.dataset_options(dataset).autotune.enabled is not None:
            return dataset
        return dataset.with_options(untuned)

    private.change_every_dataset(without_autotuning)
