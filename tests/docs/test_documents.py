"""Documents and maps of folders name what exists, fit a page, and can be found from the index."""

from __future__ import annotations

import ast
import importlib
import re

import pytest
from documents import DOCUMENTS, ROOT, codes, name_of, prose

from cerebro.version import __version__

LONGEST = 100
INDEX = ROOT / "docs" / "README.md"
PACKAGES = sorted((ROOT / "cerebro").rglob("__init__.py"))
FROM = [ROOT, ROOT / "cerebro", ROOT / "tests"]
"""Where a path that is named starts: `docs/api.md`, `driver/loop.py`, `driver/test_faults.py`."""

FILE = re.compile(r"(?<![\w/.])(?:[\w.-]+/)+(?:[\w-]+\.(?:py|md|sh|js|service|ipynb))?(?![\w<*])")
MAPPED = re.compile(r"^ *(\w[\w, ]*?) {2,}\S", re.MULTILINE)
"""A line of a folder's map, in a package's docstring: `ledger   what the records add up to`."""


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def named_paths(text):
    """The files and folders of the project that backquotes name."""
    for code in codes(text):
        for found in FILE.findall(code.partition("::")[0]):
            inside = found.startswith(("cerebro/", "docs/", "tests/", "examples/", "benchmarks/"))
            if found.endswith((".py", ".sh", ".js", ".service", ".ipynb")) or inside:
                yield found


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_that_a_document_names_exist(document):
    for named in named_paths(prose(document)):
        assert any((place / named).exists() for place in [*FROM, document.parent]), named


@pytest.mark.parametrize("path", PACKAGES, ids=name_of)
def test_files_that_a_package_names_exist(path):
    for named in named_paths(docstring(path)):
        assert any((place / named).exists() for place in [*FROM, path.parent]), named


def test_documents_that_the_code_names_exist():
    for path in (ROOT / "cerebro").rglob("*.py"):
        for named in re.findall(r"(?<![\w/])(?:docs/[\w/-]+|[A-Z]+)\.md\b", path.read_text()):
            assert (ROOT / named).exists(), f"{name_of(path)}: {named}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_names_of_the_library_in_a_document_exist(document):
    for code in codes(prose(document)):
        for dotted in re.findall(r"(?<![\w./-])cerebro(?:\.\w+)+", code):
            assert exists(dotted), dotted


def exists(dotted):
    """Whether a module, or something in it, goes by this name."""
    first, *rest = dotted.split(".")
    found = importlib.import_module(first)
    for name in rest:
        dotted = f"{found.__name__}.{name}" if hasattr(found, "__path__") else ""
        if not hasattr(found, name) and dotted:
            try:
                importlib.import_module(dotted)
            except ModuleNotFoundError:
                return False
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@pytest.mark.parametrize(
    "path", [path for path in PACKAGES if MAPPED.search(docstring(path))], ids=name_of
)
def test_the_map_of_a_folder_lists_its_modules(path):
    listed = [name for line in MAPPED.findall(docstring(path)) for name in line.split(", ")]
    modules = {p.stem for p in path.parent.glob("*.py")} - {"__init__"}
    packages = {p.parent.name for p in path.parent.glob("*/__init__.py")}
    assert len(listed) == len(set(listed))
    assert modules <= set(listed) <= modules | packages


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d.name != "api.md"], ids=name_of)
def test_no_line_is_too_long(document):
    for number, line in enumerate(prose(document).splitlines(), 1):
        if not line.startswith("|") and " " in line.strip():
            assert len(line) <= LONGEST, f"line {number} without code blocks: {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_the_index_leads_to_every_document(document):
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", INDEX.read_text())
    targets = {(INDEX.parent / link).resolve() for link in links}
    assert document in {INDEX, *targets}


def test_the_version_is_the_changelogs_and_the_citations():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[:2] == ["Unreleased", __version__]
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_hooks_run_what_make_check_runs():
    makefile = (ROOT / "Makefile").read_text()
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
    hooks = re.findall(r"entry: \.venv/bin/(.+)", (ROOT / ".pre-commit-config.yaml").read_text())
    commands = [line.removeprefix("\t$(BIN)/").removesuffix(" .") for line in check.splitlines()]
    assert hooks == commands
