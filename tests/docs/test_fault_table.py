"""The tests that docs/faults.md names are there."""

from __future__ import annotations

import ast

import pytest
from documents import ROOT, codes, table

FAULTS = ROOT / "docs" / "faults.md"
NAMED = [(row[0], name) for row in table(FAULTS, "What happens") for name in codes(row[-1])]


def test_every_row_names_a_test():
    assert all(codes(row[-1]) for row in table(FAULTS, "What happens"))


@pytest.mark.parametrize(("what", "name"), NAMED)
def test_tests_that_are_named_exist(what, name):
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
