"""Is a person sitting? Model selection on accelerometer data with model hopper parallelism.

Trains the CNN-BiLSTM of DeepPostures (https://github.com/ADALabUCSD/DeepPostures) in several
configurations at once and names the best one. Unedited, it starts two workers on this machine
and trains on a small made-up data set:

    python behavior_classification.py

Edit `main()` to use workers, data and hyperparameters of your own.

Four functions say what is trained: `input_fn` reads one partition, `model_fn` builds one
configuration's graph, `train_fn` makes one pass over the partition, `eval_fn` decides after each
epoch which models stop. They travel to the workers by themselves, with the helpers they use;
only packages have to be installed there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import tensorflow.compat.v1 as tf
from block_lstm import bidirectional_lstm
from sequence_batches import AXES, SAMPLES, read_batch, shuffled_batches
from strided_convolutions import strided_convolutions

import cerebro
from cerebro.data import check_acceleration, partition_dirs
from cerebro.errors import CerebroError, NotARun, RunInterrupted
from cerebro.search import ASHA, Hyperband, LogUniform, RandomSearch, SearchProcedure

EPOCHS = 10
TAKEOVER_WAIT = 600  # seconds; a requeued job's predecessor may still be alive, on a lost node
LONG_SEGMENT = 1000  # ten-second windows; see `read_segments`

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = REPOSITORY / "data"

# Takes a minute or two on two cores with the made-up data set.
SMALL_GRID = {
    "learning_rate": [1e-3, 1e-4],
    "reg_param": [1e-3],
    "amp_factor": [1],
    "win_size_mins": [7, 9],
    "batch_size": [4],
}
# The grid of the published experiments.
FULL_GRID = {
    "learning_rate": [1e-3, 1e-4],
    "reg_param": [1e-3, 1e-4],
    "amp_factor": [2, 4],
    "win_size_mins": [7, 9],
    "batch_size": [128],
}
# What searches other than the grid draw from. From the grid's lists alone, the same configuration
# would soon be drawn twice; of a range no value is, and it has the ones between.
SMALL_SPACE = {**SMALL_GRID, "learning_rate": LogUniform(3e-4, 3e-3), "batch_size": [2, 4]}
FULL_SPACE = {
    **FULL_GRID,
    "learning_rate": LogUniform(1e-4, 3e-3),
    "reg_param": LogUniform(1e-4, 1e-3),
}


# --------------------------------------------------------------------------------------------
# input_fn: one partition
# --------------------------------------------------------------------------------------------


def input_fn(path: str) -> dict[str, Any]:
    """Read the partition whose definition file is `path`.

    The file lists subject directories; each holds one HDF5 file a day, named YYYY-MM-DD.h5. A
    ten-second window whose label is unknown (-1), or in which the subject slept or did not wear
    the device, is dropped and ends a segment; so does a day's end.

    Returns a dictionary of

    - `acceleration`: float32 (n, 100, 3), in g: the windows that are kept, in time order;
    - `labels`: float32 (n,), 0 sitting, 1 not sitting;
    - `offsets`: int64 (segments + 1,): segment i is the windows offsets[i] to offsets[i + 1];
    - `shuffle_seed`: seeds the order of training; the library seeds NumPy's generator by the
      partition before it calls this function, so every worker draws the same;
    - `path`.

    Raises `ValueError`, naming the file, for a damaged file or one that lacks a data set or holds
    values that cannot be, such as NaN, a directory without day files, and a partition without
    usable windows; and `PartitionError` for a bad definition file.
    """
    days = []
    for directory in partition_dirs(path):
        for file in day_files(directory, path):
            days.append((file, *usable_segments(file)))
    lengths = np.concatenate([ends - starts for _, starts, ends, _ in days])
    offsets = np.cumsum(np.concatenate([[0], lengths]), dtype=np.int64)
    if offsets[-1] == 0:
        raise ValueError(f"the directories in {path} hold no labelled window of an awake wearer")
    return {
        "acceleration": read_segments([day[:3] for day in days], offsets[-1]),
        "labels": np.concatenate([labels for *_, labels in days]),
        "offsets": offsets,
        "shuffle_seed": int(np.random.randint(2**31)),
        "path": path,
    }


def day_files(directory: str, definition: str) -> list[str]:
    """The day files of a subject's directory, in the order of time."""
    names = sorted(name for name in os.listdir(directory) if name.endswith(".h5"))
    if not names:
        raise ValueError(
            f"{directory} (listed in {definition}) holds no .h5 file; it should hold one file a "
            "day, named YYYY-MM-DD.h5, as DeepPostures' pre-processing writes them"
        )
    return [os.path.join(directory, name) for name in names]


@contextlib.contextmanager
def day_file(path: str) -> Iterator[Any]:
    """A day file, open; `ValueError` that names it if it cannot be read."""
    try:
        # Nobody writes these files any more, and network file systems often have no locks.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read as HDF5; it may be damaged: {error}") from error


def day_columns(path: str, names: Sequence[str]) -> list[np.ndarray]:
    """A day's data sets with a value for each window; `ValueError` if the day is not sound."""
    with day_file(path) as file:
        for name in ("data", *names):
            if file.get(name, getlink=True) is None:
                raise ValueError(f"{path} has no data set {name!r}")
            is_link = not isinstance(file.get(name, getlink=True), h5py.HardLink)
            if is_link or file[name].external or file[name].is_virtual:
                raise ValueError(f"{path}: the values of {name!r} lie in another file")
        shape = file["data"].shape
        columns = [file[name][...] for name in names]
    if len(shape) != 3 or shape[1:] != (SAMPLES, AXES):
        raise ValueError(f"{path}: 'data' has shape {shape}, not (n, {SAMPLES}, {AXES})")
    for name, values in zip(names, columns, strict=True):
        if values.shape != shape[:1]:
            raise ValueError(
                f"{path}: {name!r} has shape {values.shape}, while 'data' has {shape[0]} windows"
            )
        known = {"label": (-1, 0, 1), "sleeping": (0, 1), "non_wear": (0, 1)}.get(name)
        others = np.flatnonzero(~(np.isfinite(values) if known is None else np.isin(values, known)))
        if len(others):
            said = "finite numbers" if known is None else f"{', '.join(map(str, known))}"
            raise ValueError(
                f"{path}: {name!r} holds other values than {said}: {values[others[0]]} in window "
                f"{others[0]} (from 0)"
            )
    return columns


def usable_segments(path: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A day's segments of usable windows: first windows, last windows + 1; and their labels."""
    sleeping, non_wear, label = day_columns(path, ("sleeping", "non_wear", "label"))
    usable = (label != -1) & (sleeping != 1) & (non_wear != 1)
    # Where `usable` changes, a segment starts or ends; the padding makes the day's ends changes.
    changes = np.flatnonzero(np.diff(np.concatenate([[False], usable, [False]])))
    return changes[::2], changes[1::2], label[usable].astype(np.float32)


def read_segments(days: list[tuple[str, np.ndarray, np.ndarray]], windows: int) -> np.ndarray:
    """The acceleration of so many windows: those of the segments (starts, ends) of each day.

    Raises `SubjectError` for values that no device can have measured.
    """
    acceleration = np.empty((windows, SAMPLES, AXES), np.float32)
    day = np.empty((0, SAMPLES, AXES), np.float32)
    filled = 0
    for path, starts, ends in days:
        places = filled + np.concatenate([[0], np.cumsum(ends - starts)])
        filled = places[-1]
        if not len(starts):
            continue
        # Long segments are read to where they belong. Of many short ones each would cost more
        # than the copy: the day is read in one piece, from its first usable window to its last,
        # into memory that is used again, and copied from there.
        directly = places[-1] - places[0] >= LONG_SEGMENT * len(starts)
        first, last = starts[0], ends[-1]
        if not directly and len(day) < last - first:
            day = np.empty((last - first, SAMPLES, AXES), np.float32)
        note = ""
        with day_file(path) as file:
            if not directly:
                file["data"].read_direct(day[: last - first], np.s_[first:last])
            for start, end, place in zip(starts, ends, places[:-1], strict=True):
                target = acceleration[place : place + end - start]
                if directly:
                    file["data"].read_direct(target, np.s_[start:end])
                else:
                    target[...] = day[start - first : end - first]
                found = check_acceleration(path, target, int(start))
                note = note or found
        if note:
            print(note)
    return acceleration


# --------------------------------------------------------------------------------------------
# model_fn: one configuration
# --------------------------------------------------------------------------------------------


def model_fn(
    data: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tf.train.Optimizer, tf.Tensor, tf.Tensor]:
    """The CNN-BiLSTM (CHAP) of DeepPostures, for one partition's data and one configuration.

    The CNN reads ten-second windows of tri-axial acceleration at 10 Hz; the bidirectional LSTM
    reads the `win_size_mins * 6` of them in one BiLSTM window. Keys of `config`:

    - `learning_rate` of Adam;
    - `reg_param`, the weight of the L2 penalty;
    - `amp_factor`, which multiplies the width of the CNN;
    - `win_size_mins`, the length of a BiLSTM window in minutes;
    - `batch_size`, the number of BiLSTM windows in a step.

    Returns the optimizer, the loss (the batch's summed sigmoid cross-entropy plus `reg_param`
    times half the squared norm of all weights) and the error (1 - accuracy).
    """
    windows_per_sequence = round(config["win_size_mins"] * 6)
    acceleration, labels = next_batch(data, windows_per_sequence, config["batch_size"])
    logits = cnn_bilstm(acceleration, windows_per_sequence, config["amp_factor"])
    cross_entropy = tf.reduce_sum(
        tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
    )
    penalty = tf.add_n([tf.nn.l2_loss(weight) for weight in tf.trainable_variables()])
    loss = cross_entropy + config["reg_param"] * penalty
    predictions = tf.round(tf.sigmoid(logits))
    error = 1.0 - tf.reduce_mean(tf.cast(tf.equal(predictions, labels), tf.float32))
    tf.add_to_collection("examples", tf.size(labels))  # train_fn weights the batches by it
    return tf.train.AdamOptimizer(config["learning_rate"]), loss, error


def next_batch(
    data: Mapping[str, Any], length: int, batch_size: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Tensors of the next batch: acceleration (batch, length, 100, 3), labels (batch, length).

    The order is drawn once and is the same in each pass; the last batch may be smaller. Data
    enters the graph batch by batch through a function, never as a constant. The iterator is
    started with the graph's tables, so that a session can be used for pass after pass.
    """
    batches = shuffled_batches(data, length, batch_size)

    def batch(number: np.int64) -> tuple[np.ndarray, np.ndarray]:
        return read_batch(data, batches[number], length)

    @tf.autograph.experimental.do_not_convert
    def batch_tensors(number: tf.Tensor) -> list[tf.Tensor]:
        return tf.numpy_function(batch, [number], [tf.float32, tf.float32])

    dataset = tf.data.Dataset.range(len(batches)).map(batch_tensors)
    iterator = tf.data.make_initializable_iterator(dataset.prefetch(1))
    tf.add_to_collection(tf.GraphKeys.TABLE_INITIALIZERS, iterator.initializer)
    acceleration, labels = iterator.get_next()
    acceleration.set_shape([None, length, SAMPLES, AXES])
    labels.set_shape([None, length])
    return acceleration, labels


def cnn_bilstm(acceleration: tf.Tensor, length: int, amp_factor: int) -> tf.Tensor:
    """Logits (batch, length) of acceleration (batch, length, 100, 3)."""
    a = amp_factor
    images = tf.reshape(acceleration, [-1, SAMPLES, AXES, 1])  # each ten-second window an image
    signal = strided_convolutions(  # over time and axes; each halves the time
        images,
        [
            weights("conv1", [5, 3, 1, 32 * a], 32 * a),
            weights("conv2", [5, 1, 32 * a, 64 * a], 64 * a),
            weights("conv3", [5, 1, 64 * a, 128 * a], 128 * a),
            weights("conv4", [5, 1, 128 * a, 256 * a], 256 * a),
            weights("conv5", [5, 1, 256 * a, 256 * a], 256 * a),
        ],
    )
    features = dense("dense", tf.reshape(signal, [-1, np.prod(signal.shape[1:])]), 256 * a)
    # The LSTM reads time-major: (length, batch, features).
    sequence = tf.transpose(tf.reshape(features, [-1, length, 256 * a]), [1, 0, 2])
    states = tf.transpose(bidirectional("forward", "backward", sequence, 128), [1, 0, 2])
    return tf.reshape(dense("logits", tf.reshape(states, [-1, 256]), 1), [-1, length])


def weights(name: str, shape: list[int], bias: int) -> tuple[tf.Variable, tf.Variable]:
    """A kernel, Glorot-uniform at first, and `bias` biases, 0 at first."""
    with tf.variable_scope(name):
        kernel = tf.get_variable("kernel", shape, initializer=tf.glorot_uniform_initializer())
        return kernel, tf.get_variable("bias", [bias], initializer=tf.zeros_initializer())


def dense(name: str, inputs: tf.Tensor, units: int) -> tf.Tensor:
    """A fully connected layer without activation."""
    kernel, bias = weights(name, [int(inputs.shape[1]), units], units)
    return tf.matmul(inputs, kernel) + bias


def bidirectional(forward: str, backward: str, sequence: tf.Tensor, units: int) -> tf.Tensor:
    """The outputs (time, batch, 2 * units) of two LSTMs over `sequence` (time, batch, features)."""
    shape = [int(sequence.shape[2]) + units, 4 * units]
    ways = [weights(name, shape, 4 * units) for name in (forward, backward)]
    return bidirectional_lstm(sequence, *ways)


# --------------------------------------------------------------------------------------------
# train_fn: one pass over a partition; eval_fn: what continues after an epoch
# --------------------------------------------------------------------------------------------


def train_fn(
    session: tf.Session, train_step: Any, loss: tf.Tensor, error: tf.Tensor, train: bool = True
) -> tuple[float, float, int]:
    """One pass over the partition; with `train=False` nothing is trained.

    Returns loss and error per ten-second window (so that they compare between batch sizes and
    window sizes), and the number of these windows, by which the library weights partitions. The
    loss of a window is its share of the batch's loss, penalty included.
    """
    (examples,) = session.graph.get_collection("examples")
    fetches = [loss, error, examples] + ([train_step] if train else [])
    total_loss = total_error = 0.0
    total = 0
    while True:
        try:
            batch_loss, batch_error, batch_examples = session.run(fetches)[:3]
        except tf.errors.OutOfRangeError:  # the pass is over
            break
        total_loss += float(batch_loss)
        total_error += float(batch_error) * int(batch_examples)
        total += int(batch_examples)
    if not total:
        raise RuntimeError("no batch came; the iterator must be started before each pass")
    return total_loss / total, total_error / total, total


def eval_fn(state: Mapping[int, Mapping[str, Any]]) -> tuple[list[int], list[dict[str, Any]]]:
    """Grid search: stop each model after `EPOCHS` epochs, add none. Epochs count from 0."""
    stop = [
        model
        for model, progress in state.items()
        if progress["state"] == "RUNNING" and progress["epoch"] >= EPOCHS - 1
    ]
    return stop, []


# --------------------------------------------------------------------------------------------
# The search
# --------------------------------------------------------------------------------------------


def main() -> None:
    options = parse_options()

    # ---- Edit from here ... ----------------------------------------------------------------
    # The workers, for example ["http://10.0.0.1:7777", "http://10.0.0.2:7777"]; start
    # `cerebro-standalone-worker` on each host first. None: two workers on this machine.
    workers: list[str] = []

    # Partition definition files, on storage that all workers share: one or more a worker.
    train_partitions = [DATA / "train" / "train_0.txt", DATA / "train" / "train_1.txt"]
    valid_partitions = [DATA / "valid" / "valid_0.txt", DATA / "valid" / "valid_1.txt"]

    # Every combination of these values is one model.
    param_grid = FULL_GRID if options.full_grid else SMALL_GRID

    # With --search random, asha or hyperband, configurations are drawn from these ranges instead.
    space = FULL_SPACE if options.full_grid else SMALL_SPACE
    # ---- ... to here. ----------------------------------------------------------------------

    if workers and options.workers:
        print("The workers given in main() are used, not those of --workers.")
    train_paths = [os.path.abspath(path) for path in options.train or train_partitions]
    valid_paths = [os.path.abspath(path) for path in options.valid or valid_partitions]
    prepare_sample(train_paths + valid_paths)
    configs = grid(param_grid)
    units = len(configs) * EPOCHS * (len(train_paths) + len(valid_paths))  # that the grid takes
    result = search(
        workers or options.workers,
        train_paths,
        valid_paths,
        configs,
        search_procedure(options.search, space, len(configs), units),
        keras=options.keras,
        ckpt_root=os.path.abspath(options.ckpt_root),
        resume=options.resume,
    )
    report(result)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Model selection for behavior classification.")
    parser.add_argument(
        "--workers", nargs="+", default=[], metavar="URL", help="workers, as http://host:port"
    )
    parser.add_argument(
        "--train", nargs="+", metavar="FILE", help="partition definition files for training"
    )
    parser.add_argument(
        "--valid", nargs="+", metavar="FILE", help="partition definition files for validation"
    )
    parser.add_argument(
        "--search",
        choices=["grid", "random", "asha", "hyperband"],
        default="grid",
        help="how configurations are found (default: %(default)s, every combination of values)",
    )
    parser.add_argument(
        "--full-grid",
        action="store_true",
        help="the grid of the published experiments, or ranges around it",
    )
    parser.add_argument(
        "--keras", action="store_true", help="the same model in Keras 3 (keras_behavior_model.py)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="resume your latest run that is unfinished, or has fewer epochs",
    )
    parser.add_argument(
        "--ckpt-root",
        default=str(REPOSITORY / "checkpoints"),
        metavar="DIR",
        help="where runs are kept; on storage that driver and workers share (default: %(default)s)",
    )
    options = parser.parse_args()
    if bool(options.train) != bool(options.valid):
        parser.error("--train and --valid belong together: name files for both, or for neither")
    return options


def grid(values: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """All combinations of the values, one dictionary each."""
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def search_procedure(
    name: str, space: Mapping[str, Any], n: int, units: int
) -> SearchProcedure | None:
    """What `--search` names; None is the grid, on whose models `eval_fn` decides.

    `n` is how many configurations the grid has, `units` how many units it takes.
    """
    if name == "random":  # `n` configurations, each trained to the end
        return RandomSearch(space, n=n, epochs=EPOCHS)
    if name == "asha":  # `n` configurations; after 1 epoch the best quarter continues, for longer
        return ASHA(space, max_epochs=EPOCHS * 3 // 2, eta=4, n=n, max_units=units // 2)
    if name == "hyperband":  # as many as the epochs ask for: 15 where they are 10
        return Hyperband(space, max_epochs=EPOCHS)
    return None


def prepare_sample(definitions: list[str]) -> None:
    """Write the made-up data set if a definition file lists its directories."""
    sample = "../sample/"
    if any(os.path.isfile(path) and sample in Path(path).read_text() for path in definitions):
        from deep_postures_sample import write_sample

        if write_sample(DATA / "sample"):
            print(f"A made-up data set was written to {DATA / 'sample'}.")


def search(
    workers: list[str],
    train_partitions: list[str],
    valid_partitions: list[str],
    configs: list[dict[str, Any]],
    procedure: SearchProcedure | None,
    *,
    keras: bool,
    ckpt_root: str,
    resume: bool,
) -> Any:
    """Train all configurations, or those that a procedure finds.

    On two workers of this machine if `workers` is empty.
    """
    epochs = EPOCHS if procedure is None else getattr(procedure, "max_epochs", EPOCHS)
    unfinished = latest_unfinished_run(ckpt_root, epochs) if resume else None
    if resume and unfinished is None:
        print(f"No unfinished run in {ckpt_root}; a new one starts.")
    # A search with other epochs is another one for the library, an `eval_fn` is not.
    changes = {"allow_changed": ["search"]} if procedure and unfinished else {}
    functions: tuple[Any, ...] = (input_fn, model_fn, train_fn)
    if keras:
        import keras_behavior_model

        functions = (input_fn, keras_behavior_model.model_fn, keras_behavior_model.train_fn)

    def schedule(cluster: Any) -> Any:
        return cerebro.schedule(
            cluster,
            train_partitions,
            valid_partitions,
            None,  # the partitions lie on shared storage: every worker may read each of them
            None,
            *functions,
            None if procedure else configs,
            None if procedure else eval_fn,
            ckpt_root,
            backend="keras" if keras else "tf",
            search=procedure,
            run_name=unfinished,
            resume="auto" if unfinished else False,
            takeover_wait=TAKEOVER_WAIT,
            **changes,
        )

    if workers:
        return schedule(workers)
    with cerebro.LocalCluster(2) as cluster:
        return schedule(cluster)


def latest_unfinished_run(ckpt_root: str, epochs: int) -> str | None:
    """The name of this user's latest run in which a model has not ended, or has fewer `epochs`.

    Models that were stopped early, or failed, have ended.
    """
    for run, result in latest_runs(ckpt_root, own=True):
        models = result.models
        running, completed = (models["state"] == state for state in ("RUNNING", "COMPLETED"))
        if running.any() or (models["epochs"][completed] < epochs).any():
            return run.name
    return None


def latest_runs(ckpt_root: str, own: bool = False) -> Iterator[tuple[Path, Any]]:
    """The runs in which something was trained, with their results; the latest at work first.

    What this user may not read is passed over; with `own`, runs of other users are, too.
    """
    root = Path(ckpt_root)
    runs = [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    runs = [path for path in runs if os.access(path, os.R_OK | os.X_OK)]
    if own and os.geteuid() != 0:  # files of root may belong to nobody
        runs = [path for path in runs if path.stat().st_uid == os.geteuid()]
    for run in sorted(runs, key=last_change, reverse=True):
        try:
            result = cerebro.load(run)
        except NotARun:
            continue
        if (result.units["outcome"] == "committed").any():
            yield run, result


def last_change(run: Path) -> float:
    """When a run's folder was changed last, or its journal was."""
    return max(path.stat().st_mtime for path in (run, *run.glob("journal/*")))


def report(result: Any) -> None:
    """Print all models, the best one, and where things lie."""
    models = result.models
    # What all models share is left out, so that the table fits a terminal.
    varied = [
        name
        for name in models
        if name.startswith("config.") and models[name].map(repr).nunique() > 1
    ]
    table = models[["model_id", *varied, "epochs", "best_epoch", "best_valid_error"]]
    table = table.sort_values("best_valid_error", kind="stable")
    print("\nAll models, the best first:\n")
    print(table.rename(columns=lambda name: name.removeprefix("config.")).to_string(index=False))
    for model in models[models["state"] == "FAILED"].itertuples():
        print(f"\nModel {model.model_id} failed: {model.failure}")
    best = result.best()
    print(f"\nBest: model {best.model_id}, after epoch {best.epoch} (from 0)")
    print(f"  configuration     {best.config}")
    print(f"  validation error  {best.metrics['valid_error']:.4f}")
    print(f"  checkpoint        {best.checkpoint}")
    print(f"  logs              {os.path.join(result.run_dir, 'logs')}")
    print(f"  history           {os.path.join(result.run_dir, 'history.csv')}")


if __name__ == "__main__":
    try:
        main()
    except RunInterrupted:
        sys.exit("\nInterrupted. The same command with --resume continues this run.")
    except CerebroError as error:  # with the traceback of your function, if it raised
        sys.exit(f"\n{error}")
