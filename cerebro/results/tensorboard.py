"""TensorBoard's event files, made from the ledger. Only here does the driver use TensorFlow.

A model's folder, `model-<id>`, is what TensorBoard calls a run: `train_loss`, `train_error`,
`valid_loss`, `valid_error` and the backend's own metrics over epochs, as in the history, and the
hyperparameters for its HParams page. An event file is a TFRecord file of `Event` messages. A file
holds the epochs that those before it lack, is named after the first of them, and is written once,
so what has been written is never written again.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cerebro.errors import InputError, StorageError
from cerebro.formatting import readable
from cerebro.journal.ledger import METRICS, EpochRecord, Ledger, ModelRecord
from cerebro.journal.run_plan import hyperparameters
from cerebro.storage import (
    check_kind,
    make_folder,
    make_folders,
    read_bytes,
    storage_errors,
    sync_file,
    sync_folder,
    temporary_beside,
)

EVENTS = "events.out.tfevents"
"""How the names of event files start; TensorBoard reads them in the order of their names."""

THREADS = 16

HPARAMS_TAG = "_hparams_/session_start_info"


def write_events(ledger: Ledger, folder: Path) -> None:
    """Bring the event files in `folder` up to the ledger; what is there stays.

    Raises `InputError` if they are another run's, and `StorageError`.
    """
    import tensorflow as tf

    models = [model for model in ledger.models.values() if model.epochs]
    run = ledger.the_plan.id[:12]
    validates = bool(ledger.the_plan.valid_partitions)
    with storage_errors("write event files to", folder):
        make_folders(folder)
        written = [_written(folder / f"model-{model.id}", run) for model in models]

        def add(model: ModelRecord, files: list[Path]) -> None:
            done = _last_step(tf, files[-1]) if files else -1
            epochs = [epoch for epoch in model.epochs if epoch.epoch > done]
            if epochs:
                _write(tf, folder / f"model-{model.id}", run, model, epochs, validates)

        try:
            # Most of the time is waiting for storage to sync.
            with ThreadPoolExecutor(THREADS) as pool:
                list(pool.map(add, models, written))
        except tf.errors.OpError as error:
            raise StorageError(f"cannot write event files to {folder}: {error.message}") from error


def _written(folder: Path, run: str) -> list[Path]:
    """A model's event files, in the order of their epochs; there may be none."""
    if not os.path.lexists(folder):
        return []
    check_kind(folder, stat.S_IFDIR)
    files = sorted(folder.glob(f"{EVENTS}*"))
    for path in files:
        if not path.name.endswith(f".{run}"):
            raise InputError(f"{path} is an event file of another run: name another folder")
    return files


def _last_step(tf: Any, path: Path) -> int:
    """The last epoch in an event file, whose records are a length (8 bytes), its checksum (4), the
    message, and its checksum (4). TensorFlow's own iterators say with a warning that they will go.

    Raises `InputError` for a file that is not one.
    """
    from google.protobuf.message import DecodeError

    content = read_bytes(path, inside=path.parent)
    step, start = -1, 0
    try:
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = tf.compat.v1.Event.FromString(content[start + 12 : start + 12 + length])
            step, start = max(step, event.step), start + length + 16
    except (struct.error, DecodeError) as error:
        raise InputError(
            f"{path} is damaged, or no event file ({error}): move it away, or name another folder"
        ) from error
    return step


def _write(
    tf: Any, folder: Path, run: str, model: ModelRecord, epochs: list[EpochRecord], validates: bool
) -> None:
    """One event file with these epochs of a model."""
    metrics = [name for name in METRICS if validates or name.startswith("train")]
    events = [tf.compat.v1.Event(wall_time=epochs[0].ended, file_version="brain.Event:2")]
    if epochs[0] is model.epochs[0]:
        summary = _hyperparameter_summary(tf, model, epochs[0].ended)
        events.append(tf.compat.v1.Event(wall_time=epochs[0].ended, summary=summary))
    for epoch in epochs:
        values = [
            tf.compat.v1.Summary.Value(tag=readable(name), simple_value=epoch.metric(name))
            for name in (*metrics, *epoch.metrics)
        ]
        summary = tf.compat.v1.Summary(value=values)
        events.append(tf.compat.v1.Event(wall_time=epoch.ended, step=epoch.epoch, summary=summary))
    make_folder(folder)
    # TensorBoard reads every file with "tfevents" in its name: the temporary name must not contain
    # it.
    temporary = temporary_beside(folder / "epochs")
    try:
        with tf.io.TFRecordWriter(str(temporary)) as writer:
            for event in events:
                writer.write(event.SerializeToString())
        sync_file(temporary)
        os.rename(temporary, folder / f"{EVENTS}.{epochs[0].epoch:010d}.{run}")
        sync_folder(folder)
    finally:
        temporary.unlink(missing_ok=True)


# --- hyperparameters -----------------------------------------------------------------------------
# TensorBoard's HParams tab takes a message `HParamsPluginData`. Its definition is in the package
# tensorboard (`tensorboard.plugins.hparams`) and nowhere in TensorFlow, which does not require that
# package any more (2.21): a driver without it would write no hyperparameters. So the message is put
# together here. It is small, and files that TensorBoard is to read for good keep its form:
#
#     HParamsPluginData {SessionStartInfo session_start_info = 3}
#     SessionStartInfo {map<string, google.protobuf.Value> hparams = 1; string group_name = 4;
#                       double start_time_secs = 5}


def _hyperparameter_summary(tf: Any, model: ModelRecord, moment: float) -> Any:
    config = hyperparameters(model.mst)
    info = b"".join(
        _field(1, _field(1, name.encode("utf-8", "replace")) + _field(2, _value(value)))
        for name, value in config.items()
    )
    # Without a group of its own a model would be averaged with those of the same configuration.
    info += _field(4, f"model-{model.id}".encode())
    info += struct.pack("<Bd", 5 << 3 | 1, moment)
    metadata = tf.compat.v1.SummaryMetadata(
        plugin_data={"plugin_name": "hparams", "content": _field(3, info)}
    )
    # TensorBoard passes over a value without a tensor.
    tensor = tf.make_tensor_proto([0.0], dtype=tf.float32)
    value = tf.compat.v1.Summary.Value(tag=HPARAMS_TAG, metadata=metadata, tensor=tensor)
    return tf.compat.v1.Summary(value=[value])


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer whose content has a length."""
    return bytes([number << 3 | 2]) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    digits = []
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def _value(value: Any) -> bytes:
    """A `google.protobuf.Value`; what is neither number, boolean nor string as JSON text."""
    from google.protobuf.struct_pb2 import Value

    if isinstance(value, bool):
        message = Value(bool_value=value)
    elif isinstance(value, (int, float)) and abs(value) <= sys.float_info.max:
        message = Value(number_value=value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        message = Value(string_value=text.encode("utf-8", "replace").decode())
    return bytes(message.SerializeToString())
