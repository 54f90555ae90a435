"""What the pages name exists: links, files with symbols, commands, tests; and no requirement is left out."""

import ast
import re
from functools import cache

import pytest
from source import ROOT

from hpt_megatron.cli.main import VERBS

pytestmark = pytest.mark.fast

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
REFERENCE = re.compile(r"`((?:[\w-]+/)*[\w-]+\.(?:py|sh|yaml|md))(?:::?([\w.]+))?`")
COMMAND = re.compile(r"`hpt ([\w-]+)")
STATES = ("open", "partly", "shown")
# Of each family of requirements, how many there are; the numbers run without a gap.
FAMILIES = {"R000": 158, "R001": 54, "R002": 25, "R003": 75, "R004": 109, "RA": 27}


@cache
def symbols(path) -> set[str]:
    """Top-level names of a file, and `Class.member`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            found |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}
    return found


def unresolved(text: str) -> list[str]:
    """References `path/file.py:symbol` (a test: `::`) with a folder in them that lead nowhere."""
    wrong = []
    for path, symbol in REFERENCE.findall(text):
        if "/" not in path and not symbol:
            continue
        file = ROOT / path
        if not file.is_file() or (symbol and symbol not in symbols(file)):
            wrong.append(f"{path}:{symbol}" if symbol else path)
    return wrong


def coverage() -> list[list[str]]:
    """Rows of the coverage table: id, subject, state, shown by, test."""
    text = (ROOT / "docs" / "coverage.md").read_text(encoding="utf-8")
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if re.match(r"\| R(\d|A)", line)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
            wrong.append(target)
    assert not wrong, wrong


def test_the_guide_has_its_topics_and_every_symbol_it_names_exists():
    text = (ROOT / "Agent.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^### (\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, 25))
    assert len(REFERENCE.findall(text)) > 40
    assert unresolved(text) == []


def test_the_coverage_table_has_every_requirement_once():
    ids = [row[0] for row in coverage()]
    expected = [f"{family}-{number:03d}" for family, last in FAMILIES.items() for number in range(1, last + 1)]
    assert ids == expected
    assert len(ids) == 448


def test_what_the_coverage_table_names_exists():
    wrong = []
    for name, subject, state, shown, test in coverage():
        if state not in STATES or not subject:
            wrong.append(f"{name}: state {state!r}, subject {subject!r}")
        wrong += [f"{name}: {lost}" for lost in unresolved(f"{shown} {test}")]
        wrong += [f"{name}: hpt {verb}" for verb in COMMAND.findall(shown) if verb not in VERBS]
        if state != "open" and (shown == "" or "::test_" not in test):
            wrong.append(f"{name} is {state} but names no command, symbol or test")
        if state == "open" and test:
            wrong.append(f"{name} is open and names a test")
    assert not wrong, "\n".join(wrong)


def test_the_pages_name_the_paper_with_its_year_and_key():
    for page in ("README.md", "docs/references.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert "2509.04419" in text
        assert "TsinghuaC3I/Unify-Post-Training" in text
        assert "2025" in text
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "@article{lv2025towards," in readme
    assert "year    = {2025}" in readme
    assert "Zhu, Xuekai" in readme
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_the_readme_table_states_the_real_defaults():
    """Not covered: the words of the table."""
    from hpt_megatron.cli.config import flatten
    from hpt_megatron.config.load import load

    values = flatten(load(["experiment=hpt-7b"]).values)
    rows = re.findall(
        r"^\| `([a-z_]+\.[a-z_]+)`[^|]*\| `?([\w.-]+)`? \|", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE
    )
    assert len(rows) >= 5
    assert [(key, str(values[key])) for key, _ in rows] == rows
