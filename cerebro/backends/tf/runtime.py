"""TensorFlow in this process: V1 behaviour, threads, devices, determinism.

An executor calls `prepare_process` once. A process that is the user's own (`cerebro.check`) must
be left as it was, and uses `v1_behaviour` instead.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from cerebro.backends.base import Options, chain
from cerebro.backends.tf.private import restored_switches
from cerebro.errors import InputError

v1 = tf.compat.v1

MIB_PER_GB = 1e9 / 2**20

_DEVICE_FAILURE = re.compile(
    r"out of memory|\bOOM\b|failed to allocate|CUDA|cuDNN|cuBLAS|cuFFT|cuSolver"
    r"|dst tensor is not initialized|GPU sync failed|launch failure",
    re.IGNORECASE,
)


def prepare_process(options: Options) -> None:
    """Make this process one that trains V1 graphs, for the rest of its life.

    To be called once, before anything else uses TensorFlow. With `options.deterministic` every
    op is asked for its deterministic kernel; one that has none raises when it runs. Raises
    `InputError` when `options.gpu` is not a GPU that TensorFlow sees.
    """
    _disable_v2_behavior()
    if options.deterministic:
        tf.config.experimental.enable_op_determinism()
    # Sessions have their own setting; this one is for Python functions that run ops eagerly.
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    check_gpu(options)


def check_gpu(options: Options) -> None:
    """`InputError` when `options.gpu` is not a GPU that TensorFlow sees."""
    gpus: list[Any] = tf.config.list_physical_devices("GPU")
    if options.gpu is not None and not 0 <= options.gpu < len(gpus):
        raise InputError(
            f"GPU {options.gpu} is not there: TensorFlow {tf.__version__} sees {len(gpus)} GPUs "
            "here, counted from 0. Name one of these, or leave the GPU out to use the CPU"
        )


def session_config(options: Options) -> Any:
    """The `ConfigProto` of every session that trains.

    One thread runs the ops where results must be repeatable: with more, independent ops that
    draw from one random stream (dropout in a `while_loop`) or call Python functions do so in an
    order that changes from run to run. The other threads serve within an op, where the work is.
    One is also enough never to block: iterators and queues wait on threads of their own.
    """
    config = v1.ConfigProto(
        intra_op_parallelism_threads=options.threads,
        inter_op_parallelism_threads=1 if options.deterministic else options.threads,
        allow_soft_placement=True,
    )
    if not visible_gpus(options):
        # Grappler takes longer to rewrite a graph of a few hundred ops than a step of it takes to
        # run. Its second pass finds next to nothing, and its memory optimizer is for GPUs.
        rewriting = config.graph_options.rewrite_options
        rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
        rewriting.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    config.gpu_options.allow_growth = True
    if options.gpu is not None:
        config.gpu_options.visible_device_list = str(options.gpu)
    if options.gpu_memory_gb is not None:
        limit = int(options.gpu_memory_gb * MIB_PER_GB)
        for _ in visible_gpus(options):
            config.gpu_options.experimental.virtual_devices.add(memory_limit_mb=[limit])
    return config


def writer_config(options: Options) -> Any:
    """The `ConfigProto` of the session that writes checkpoints.

    It has threads of its own, so that training never waits for the disk, and holds no GPU.
    """
    return v1.ConfigProto(
        intra_op_parallelism_threads=options.threads,
        inter_op_parallelism_threads=1,
        use_per_session_threads=True,
        device_count={"GPU": 0},
    )


def device_names(options: Options) -> list[str]:
    """The devices that sessions compute on, for people: `["GPU NVIDIA H200"]` or `["CPU"]`."""
    names = []
    for gpu in visible_gpus(options):
        details = tf.config.experimental.get_device_details(gpu)
        names.append(f"GPU {details.get('device_name', gpu.name)}")
    return names or ["CPU"]


@contextlib.contextmanager
def v1_behaviour() -> Iterator[None]:
    """V1 behaviour inside the block; TensorFlow's switches as they were before after it.

    The switches are global: other threads meet them too.
    """
    with restored_switches():
        _disable_v2_behavior()
        yield


def is_resource_error(error: BaseException) -> bool:
    """Whether `error`, or one that it was raised from, says that memory or a device gave out."""
    for link in chain(error):
        if isinstance(link, (MemoryError, tf.errors.ResourceExhaustedError)):
            return True
        if isinstance(
            link, (tf.errors.InternalError, tf.errors.UnknownError, tf.errors.AbortedError)
        ) and _DEVICE_FAILURE.search(str(link)):
            return True
    return False


def visible_gpus(options: Options) -> list[Any]:
    gpus: list[Any] = list(tf.config.list_physical_devices("GPU"))
    return gpus if options.gpu is None else gpus[options.gpu : options.gpu + 1]


def _disable_v2_behavior() -> None:
    # TensorFlow warns here that ref variables are not supported in the long term. V1 scripts
    # expect them, so there is nothing that a user could do about it.
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        v1.disable_v2_behavior()
    finally:
        logger.setLevel(level)
