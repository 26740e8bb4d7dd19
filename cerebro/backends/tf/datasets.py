"""What an executor sets for every `tf.data` input in it."""

from __future__ import annotations

from typing import Any

from tensorflow.python.data.ops.dataset_ops import DatasetV2

from cerebro.backends.tf.runtime import tf


def disable_autotuning() -> None:
    """Have inputs tune nothing by themselves, unless the user's options say that they do.

    In TensorFlow 2.21 the thread that tunes an input is not woken when its iterator begins anew or
    its session is closed, which wait for it: it sleeps its period out, and the period doubles up to
    a minute. After a pass of 5 s a session stood still for another 4.7 s. Where an input asks for
    `tf.data.AUTOTUNE`, it then has as many parallel calls as there are threads.
    """
    apply_options = DatasetV2._apply_debug_options
    untuned = tf.data.Options()
    untuned.autotune.enabled = False

    def without_autotuning(dataset: Any) -> Any:
        # A V1 data set is a wrapper. `options()` would be the public way, and warns in a V1 graph.
        options = getattr(dataset, "_dataset", dataset)._options_attr
        if options.autotune.enabled is None:
            dataset = dataset.with_options(untuned)
        return apply_options(dataset)

    # TensorFlow calls this for every data set that it makes an iterator of.
    DatasetV2._apply_debug_options = without_autotuning
