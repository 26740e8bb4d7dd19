"""docs/commands.md has every command, with its arguments as `--help` explains them."""

from __future__ import annotations

import argparse
import re

import pytest
from documents import ROOT, blocks, codes, table

from cerebro.cli import main
from cerebro.cli import worker as worker_cli

COMMANDS = ROOT / "docs" / "commands.md"
NAMES = ["cerebro-standalone-worker", *(f"cerebro {name}" for name in main.SUBCOMMANDS)]


def parser_of(name):
    """The parser of a command, or of a subcommand of `cerebro`."""
    if name == "cerebro-standalone-worker":
        return worker_cli.parser()
    (subparsers,) = [a for a in main.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return subparsers.choices[name.removeprefix("cerebro ")]


def invocation(action):
    """An argument as `--help` writes it, in its longest form: `--drain URL`."""
    if not action.option_strings:
        return action.metavar or action.dest
    option = action.option_strings[-1]
    if action.nargs == 0:
        return option
    value = action.metavar or action.dest.upper()
    if action.choices:
        value = "{" + ",".join(action.choices) + "}"
    return f"{option} {value}"


def explained(action):
    """What `--help` says of an argument, in one line."""
    return " ".join((action.help % vars(action)).split())


def arguments_of(name):
    return [a for a in parser_of(name)._actions if a.dest not in ("help", "version")]


def test_every_command_has_a_section():
    headings = re.findall(r"^## (.+)$", COMMANDS.read_text(), re.MULTILINE)
    assert headings == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_argument_is_explained_as_its_help_does(name):
    said = {codes(row[0])[0]: row[1] for row in table(COMMANDS, name)}
    assert said == {invocation(a): explained(a) for a in arguments_of(name)}


@pytest.mark.parametrize("name", NAMES)
def test_every_command_is_shown_in_use(name):
    shown = [line for b in blocks(COMMANDS, "sh") for line in b.text.splitlines()]
    assert any(line.startswith(f"{name} ") for line in shown)


@pytest.mark.parametrize("name", NAMES)
def test_help_reads_well_at_80_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    parser = parser_of(name)
    text = parser.format_help()
    assert all(len(line) < 80 for line in text.splitlines())
    assert parser.description, "what the command does"
    assert parser.description.strip()[-1] == "."
    for action in arguments_of(name):
        help_text = explained(action)
        assert help_text
        assert not help_text.endswith("."), f"{invocation(action)}: {help_text}"
        assert invocation(action).split()[0] in text


def test_the_help_of_cerebro_names_each_subcommand():
    text = " ".join(main.parser().format_help().split())
    for name, module in main.SUBCOMMANDS.items():
        assert f" {name} {module.SUMMARY} " in text
        assert module.SUMMARY[0].islower()
        assert not module.SUMMARY.endswith(".")
