"""The tests that the tables of docs/faults.md and SECURITY.md name are there."""

from __future__ import annotations

import ast

import pytest
from documents import ROOT, codes, table

ROWS = [
    *table(ROOT / "docs" / "faults.md", "What happens"),
    *table(ROOT / "SECURITY.md", "Who may do what"),
]
NAMED = [(" ".join(row[:2]), name) for row in ROWS for name in codes(row[-1])]


def test_every_row_names_a_test():
    assert [row for row in ROWS if not codes(row[-1])] == []


@pytest.mark.parametrize(("what", "name"), NAMED)
def test_tests_that_are_named_exist(what, name):
    file, _, function = name.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
