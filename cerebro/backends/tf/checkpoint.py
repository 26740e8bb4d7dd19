"""A model's state as a TensorFlow checkpoint: reading, writing, checking.

The form of a state on disk is TensorFlow's tensor bundle of format V2, `<prefix>.index` and
`<prefix>.data-00000-of-00001`, as `tf.compat.v1.train.Saver` writes it, but without meta graph
and without the `checkpoint` file. The bundle holds a masked CRC32C of each tensor and of each
block of the index, which TensorFlow checks when it reads them. What the index says is looked at
before that (`bundle_index`). No meta graph and no `checkpoint` file is ever read.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from cerebro.backends.base import Options
from cerebro.backends.checkpoint_files import copy_files
from cerebro.backends.tf.bundle_index import check_bundle
from cerebro.backends.tf.host_memory import State, as_array
from cerebro.backends.tf.runtime import tf, v1, writer_config
from cerebro.errors import StorageError, VersionDamaged, VersionRefused

logger = logging.getLogger(__name__)

PREFIX = "model"


def read_state(prefix: str) -> State:
    """The state saved under `prefix`, every checksum verified.

    Raises `VersionDamaged` where a checksum fails, or files are cut short or gone,
    `VersionRefused` where they are something else, and `StorageError` where storage refuses to say.
    """
    try:
        return _read(prefix)
    except (MemoryError, VersionRefused):
        raise
    except Exception as error:
        logger.info("reading a copy of %s, because of: %s", prefix, error)
    # The reader's errors do not tell bad files from storage that fails. A copy does, which is
    # made by plain reading, and read where storage does not matter.
    with tempfile.TemporaryDirectory(prefix="cerebro-") as folder:
        copy = copy_files(prefix, folder)
        try:
            return _read(copy)
        except MemoryError:
            raise
        except Exception as error:
            # The reader raises OpError, ValueError, IndexError and others, all for bad files.
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise VersionDamaged(
                f"the checkpoint {prefix} cannot be read, its files are damaged, cut short or gone "
                f"({reason.replace(copy, prefix)})"
            ) from error


def _read(prefix: str) -> State:
    check_bundle(prefix)
    # Not `tf.train.load_checkpoint`: in a folder it goes where a file `checkpoint` leads.
    reader = v1.train.NewCheckpointReader(prefix)
    names = sorted(reader.get_variable_to_shape_map())
    return State({name: as_array(reader.get_tensor(name)) for name in names})


class CheckpointWriter:
    """Writes states; one small graph for each sequence of types is built once and kept.

    Made for one thread, which may be another one than trains.
    """

    def __init__(self, options: Options) -> None:
        self._config = writer_config(options)
        self._savers: dict[tuple[str, ...], _Saver] = {}

    def write(self, state: Mapping[str, np.ndarray], directory: str) -> str:
        """Write `state` into `directory`; returns the prefix's name in it.

        Raises `StorageError` where the file system refuses.
        """
        names = sorted(state)
        types = tuple(_type_of(state[name]).name for name in names)
        saver = self._savers.get(types)
        if saver is None:
            saver = self._savers[types] = _Saver(types, self._config)
        prefix = os.path.join(directory, PREFIX)
        try:
            saver.save(prefix, names, [state[name] for name in names])
        except tf.errors.OpError as error:
            raise StorageError(
                f"cannot write the checkpoint {prefix}: {_cause(error, directory)}"
            ) from error
        return PREFIX

    def close(self) -> None:
        """Release the sessions."""
        for saver in self._savers.values():
            saver.close()
        self._savers.clear()


class _Saver:
    """A graph with one SaveV2 op, for tensors of given types and any shapes."""

    def __init__(self, types: tuple[str, ...], config: Any) -> None:
        graph = tf.Graph()
        with graph.as_default():
            self._prefix = v1.placeholder(tf.string, [])
            self._names = v1.placeholder(tf.string, [len(types)])
            self._tensors = [v1.placeholder(tf.as_dtype(name)) for name in types]
            self._save = tf.raw_ops.SaveV2(
                prefix=self._prefix,
                tensor_names=self._names,
                shape_and_slices=[""] * len(types),
                tensors=self._tensors,
            )
        self._session = v1.Session(graph=graph, config=config)

    def save(self, prefix: str, names: list[str], values: list[np.ndarray]) -> None:
        feed: dict[Any, Any] = {self._prefix: prefix, self._names: names}
        feed.update(zip(self._tensors, values, strict=True))
        self._session.run(self._save, feed)

    def close(self) -> None:
        self._session.close()


def _cause(error: tf.errors.OpError, directory: str) -> str:
    """What the file system said: TensorFlow puts it after the path, amid lines on the graph."""
    message: str = error.message
    for line in message.splitlines():
        if line.startswith(directory):
            return line.rpartition("; ")[2]
    return message


def _type_of(array: np.ndarray) -> tf.DType:
    return tf.string if array.dtype == object else tf.as_dtype(array.dtype)
