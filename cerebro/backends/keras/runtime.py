"""Keras and TensorFlow in this process: which ones, threads, devices, determinism.

The other modules of this backend take them from here, so that what does not fit is said before it
loads.
"""

from __future__ import annotations

from cerebro.backends.base import Options
from cerebro.backends.keras.installed import keras
from cerebro.backends.tf.datasets import disable_autotuning
from cerebro.backends.tf.runtime import MIB_PER_GB, check_gpu, tf, visible_gpus

__all__ = ["keras", "prepare_process", "tf"]


def prepare_process(options: Options) -> None:
    """Make this process one that trains Keras models, for the rest of its life.

    To be called once, before anything else uses TensorFlow. With `options.deterministic` every
    op is asked for its deterministic kernel, and one thread runs the ops, as in backend "tf".
    Raises `InputError` when `options.gpu` is not a GPU that TensorFlow sees.
    """
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(
        1 if options.deterministic else options.threads
    )
    check_gpu(options)
    gpus = visible_gpus(options)
    if options.gpu is not None:
        tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        if options.gpu_memory_gb is None:
            tf.config.experimental.set_memory_growth(gpu, True)
        else:
            limit = int(options.gpu_memory_gb * MIB_PER_GB)
            tf.config.set_logical_device_configuration(
                gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)]
            )
    disable_autotuning()
