"""What the documents say can be done: code runs, commands and options exist, links lead on."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import itertools
import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
from documents import DOCUMENTS, ROOT, blocks, codes, name_of, prose
from patience import PATIENCE

import cerebro
from cerebro import search
from cerebro.backends import BACKENDS
from cerebro.cli import main as command
from cerebro.cli.worker import parser
from cerebro.data import ArrayPartitioning, partition_arrays, partition_subjects

README = ROOT / "README.md"
ORIGINAL = ROOT / "docs" / "original.md"

PYTHON = [block for document in DOCUMENTS for block in blocks(document, "python")]
SHELL = [block for document in DOCUMENTS for block in blocks(document, "sh")]

CALLABLES = {
    "schedule": cerebro.schedule,
    "check": cerebro.check,
    "load": cerebro.load,
    "LocalCluster": cerebro.LocalCluster,
    "best": cerebro.Result.best,
    "export": cerebro.Result.export,
    "tensorboard": cerebro.Result.tensorboard,
    "partition_subjects": partition_subjects,
    "partition_arrays": partition_arrays,
    "dataset": ArrayPartitioning.dataset,
    **{name: getattr(search, name) for name in search.__all__},
}
"""What documents call with keywords, by its last name."""

OTHER_KEYWORDS = {
    "train",
    "time_major",
    "metrics",
    "training",
    "stateful",
    "vocabulary",
    "bin_boundaries",
    "file_mode",
}
"""Keywords in prose that are the user's own functions', TensorFlow's or Keras'."""

OTHER_COMMANDS = {
    *("source", "ssh", "scp", "tensorboard", ".venv/bin/pre-commit", "basename", "mkdir"),
}
"""Commands that are no part of the project."""


SHORTER = {"search=GridSearch(space, epochs=3),": "search=GridSearch(space, epochs=1),"}
"""What makes the longest search of the documents short: one epoch does all that three do."""


def before(block):
    """The blocks that must run before this one, by its mark."""
    found = re.fullmatch(r"goes on from block (\d+)", block.mark)
    if found is None:
        return []
    first = blocks(block.document, "python")[int(found[1]) - 1]
    return [*before(first), first]


def source(block):
    """A block's code, with that of the blocks it goes on from."""
    code = "\n\n".join(part.text for part in [*before(block), block])
    for long, short in SHORTER.items():
        code = code.replace(long, short)
    return code


def runnable():
    """Every block that is not marked; one that another goes on from runs as part of that."""
    included = {part for block in PYTHON for part in before(block)}
    for block in PYTHON:
        if block in included or block.mark.startswith("not run:") or "Saver()" in block.text:
            continue  # what loads weights has a test of its own
        uses_tensorflow = "import tensorflow" in source(block)
        marks = [pytest.mark.tf, pytest.mark.slow] if uses_tensorflow else []
        yield pytest.param(block, id=block.name, marks=marks)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_a_python_block_is_run_or_says_why_not(block):
    assert re.fullmatch(r"|not run: .+|goes on from block \d+", block.mark), block.mark
    ast.parse(block.text)


def run_script(code, folder):
    """Run code in an empty folder; returns what it prints. Its runs must have gone well."""
    script = folder / "script.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "HOME": str(folder), "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert not (folder / ".cerebro").exists()
    for journal in folder.glob("**/journal"):
        run = cerebro.load(journal.parent)
        assert run.complete
        assert set(run.models["state"]) <= {"COMPLETED", "STOPPED"}
        said = {line.split()[0] for b in blocks(README, "text") for line in b.text.splitlines()}
        if "import tensorflow" not in code:
            said.discard("tensorboard")
        if 'backend="python"' not in code:
            said.discard("code")
        said.discard("report.html")  # no block asks for it
        assert {path.name for path in journal.parent.iterdir()} == said
    return done.stdout


@pytest.mark.processes
@pytest.mark.parametrize("block", list(runnable()))
def test_a_python_block_runs(block, tmp_path):
    if "import tensorflow" in source(block) and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    run_script(source(block), tmp_path)


@pytest.mark.tf
@pytest.mark.slow
def test_the_weights_that_the_readme_loads_have_the_metrics_of_the_best_model(tmp_path):
    pytest.importorskip("tensorflow", reason="the blocks are written for TensorFlow")
    (block,) = [b for b in blocks(README, "python") if "Saver()" in b.text]
    code = source(block).replace("print(train_fn(", "measured = (train_fn(")
    assert "measured" in code
    code += "\nimport json\nprint(json.dumps([[float(m) for m in measured], best.metrics]))\n"
    output = run_script(code, tmp_path)
    (loss, error), metrics = json.loads(output.splitlines()[-1])
    # Batches are drawn anew: only the order of what is summed differs.
    assert loss == pytest.approx(metrics["valid_loss"], rel=1e-5)
    assert error == pytest.approx(metrics["valid_error"], rel=1e-5)
    assert error < 0.25


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.name)
def test_keywords_of_calls_exist(block):
    for call in (node for node in ast.walk(ast.parse(block.text)) if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if name in CALLABLES:
            known = inspect.signature(CALLABLES[name]).parameters
            assert {k.arg for k in call.keywords} <= set(known), name


def test_what_is_made_shorter_is_in_a_document():
    for long in SHORTER:
        assert [block for block in PYTHON if long in block.text]


def test_keywords_in_prose_exist():
    known = {name for call in CALLABLES.values() for name in inspect.signature(call).parameters}
    for document in DOCUMENTS:
        for code in codes(prose(document)):
            for keyword, value in re.findall(r"(?<![\w(.])(\w+)=(?!=)([^,)]*)", code):
                assert keyword in {*known, *OTHER_KEYWORDS}, f"{name_of(document)}: {code}"
                if keyword == "backend":
                    assert value.strip("\"'") in BACKENDS


# --- shell commands ------------------------------------------------------------------------------


def commands():
    """Every command line of the documents' shell blocks, as words."""
    for block in SHELL:
        for line in block.text.replace("\\\n", " ").splitlines():
            yield pytest.param(shlex.split(line, comments=True), id=f"{block.name} {line}")


def worker_options():
    return {o for action in parser()._actions for o in action.option_strings}


def subcommand_options():
    """The options of `cerebro` and of its subcommands."""
    options = set()
    for module in command.SUBCOMMANDS.values():
        own = argparse.ArgumentParser()
        module.configure(own)
        options |= {o for action in own._actions for o in action.option_strings}
    return options


def benchmark_options():
    """The options of the commands in benchmarks/, as their sources name them."""
    sources = (path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    return {o for text in sources for o in re.findall(r'add_argument\(\s*"(--[\w-]+)"', text)}


def example_options(path):
    return set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', path.read_text()))


def options_of_examples():
    return {o for path in (ROOT / "examples").glob("*.py") for o in example_options(path)}


@pytest.mark.parametrize("words", list(commands()))
def test_a_shell_command_exists(words):
    program, *rest = words
    program = re.sub(r"^\w+=\$\(", "", program)  # whose output a variable takes
    if program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest
        assert set(rest) <= set(targets)
    elif program == "cerebro-standalone-worker":
        assert f"{program}=cerebro.cli.worker:main" in (ROOT / "setup.py").read_text()
        parser().parse_args(rest)
    elif program == "cerebro":
        assert f"{program}=cerebro.cli.main:main" in (ROOT / "setup.py").read_text()
        command.parser().parse_args(rest)
    elif program in ("python", "python3", ".venv/bin/python"):
        check_python(rest)
    elif program == "sbatch":
        script, *command_line = itertools.dropwhile(lambda word: word.startswith("--"), rest)
        assert (ROOT / script).is_file()
        check_python(command_line[1:])
    else:
        assert program in OTHER_COMMANDS, f"{program} is not known to this test"


def check_python(words):
    if words[0] == "-m":
        assert words[1] in ("venv", "pip", "pytest", "coverage"), words
        for path in (word for word in words[2:] if word.startswith("tests/")):
            assert (ROOT / path).exists(), path
        for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
            assert f'"{extra}": ' in (ROOT / "setup.py").read_text()
        return
    assert (ROOT / words[0]).is_file()
    assert words[0].startswith("examples/")
    assert {w for w in words if w.startswith("--")} <= example_options(ROOT / words[0])


def test_options_in_prose_exist():
    known = worker_options() | subcommand_options() | options_of_examples() | benchmark_options()
    for document in DOCUMENTS:
        for code in codes(prose(document)):
            for option in re.findall(r"(?<!\S)--[\w-]+", code):
                assert option in known, f"{name_of(document)}: {code}"


def test_the_worker_listens_where_the_readme_says():
    arguments = parser().parse_args([])
    assert f"`{arguments.hostname}:{arguments.port}`" in README.read_text()


def test_links_lead_to_files():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)]+)\)", prose(document)):
            if not re.match(r"https?://", link):
                path, _, place = link.partition("#")
                target = document.parent / path if path else document
                assert target.exists(), f"{name_of(document)}: {link}"
                assert not place or place in anchors(target), f"{name_of(document)}: {link}"


def anchors(document):
    """The names that a document's headings have in links."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- the replacements for what newer TensorFlow lacks --------------------------------------------


@pytest.fixture(scope="module")
def replacements():
    """The functions of docs/original.md for scripts that used `tf.layers` and `tf.nn.rnn_cell`."""
    pytest.importorskip("tensorflow", reason="the block is written for TensorFlow")
    (block,) = [b for b in blocks(ORIGINAL, "python") if "def lstm(" in b.text]
    names = {}
    exec(compile(block.text, block.name, "exec"), names)
    return names


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run(tf, outputs, values):
    """Outputs, and the gradient of their sum by each variable, with given values of these."""
    variables = {v.op.name: v for v in tf.global_variables()}
    assert set(variables) == set(values)
    gradients = tf.gradients(outputs, list(variables.values()))
    assert None not in gradients
    with tf.Session() as session:
        for name, value in values.items():
            assert variables[name].shape == value.shape
            variables[name].load(value, session)
        return session.run([outputs, gradients])


@pytest.mark.tf
def test_lstm_computes_an_lstm_and_has_a_gradient(replacements):
    tf = replacements["tf"]
    rng = np.random.default_rng(0)
    time, batch, features, units = 4, 2, 3, 5
    x = rng.normal(size=(time, batch, features))
    kernel = rng.normal(size=(features + units, 4 * units))
    bias = rng.normal(size=4 * units)
    h = c = np.zeros((batch, units))
    expected = []
    for step in x:
        i, j, f, o = np.split(np.concatenate([step, h], axis=1) @ kernel + bias, 4, axis=1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
        expected.append(h)
    with tf.Graph().as_default():
        outputs = replacements["lstm"]("a", tf.constant(x, tf.float32), units)
        given = {"a/kernel": kernel, "a/bias": bias}
        found, gradients = run(tf, outputs, given)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert all(np.abs(gradient).max() > 0 for gradient in gradients)


@pytest.mark.tf
def test_the_second_direction_runs_backwards(replacements):
    tf = replacements["tf"]
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    with tf.Graph().as_default(), tf.Session() as session:
        outputs = replacements["bidirectional_lstm"]("a", tf.constant(x, tf.float32), 5)
        session.run(tf.global_variables_initializer())
        changed = x.copy()
        changed[0] += 1  # reaches all of the first direction, and only the end of the second
        both = []
        for values in (x, changed):
            both.append(session.run(outputs, {outputs.graph.get_tensor_by_name("Const:0"): values}))
    differs = np.abs(both[0] - both[1]).max(axis=1) > 1e-7
    assert differs[:, :5].any(axis=1).all()
    assert differs[0, 5:].any()
    assert not differs[1:, 5:].any()


@pytest.mark.tf
def test_conv2d_and_dense(replacements):
    tf = replacements["tf"]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 3, 4))
    values = {
        "c/kernel": rng.normal(size=(5, 3, 4, 6)),
        "c/bias": rng.normal(size=6),
        "d/kernel": rng.normal(size=(6, 2)),
        "d/bias": rng.normal(size=2),
    }
    expected = np.stack(
        [
            np.tensordot(x[:, first : first + 5], values["c/kernel"], 3) + values["c/bias"]
            for first in (0, 2)
        ],
        axis=1,
    )[:, :, None]
    expected = np.maximum(expected, 0) @ values["d/kernel"] + values["d/bias"]
    with tf.Graph().as_default():
        signal = tf.constant(x, tf.float32)
        signal = replacements["conv2d"]("c", signal, 6, (5, 3), (2, 1), activation=tf.nn.relu)
        found, _ = run(tf, replacements["dense"]("d", signal, 2), values)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
