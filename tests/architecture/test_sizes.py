"""Files, functions and nesting stay small; an exception carries its reason and date, and the list may only shrink."""

import ast
from fnmatch import fnmatch

import pytest
from source import PACKAGE, ROOT, modules

pytestmark = pytest.mark.fast

FILE, FUNCTION, NESTING, PARAMETERS = 400, 80, 4, 7
# "path" or "path:function" -> (what it has, reason, date). No entry is added without one going.
EXCEPTIONS: dict[str, tuple[int, str, str]] = {}
MOST_EXCEPTIONS = 0
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.AsyncFor, ast.AsyncWith, ast.Match)
VAGUE = ("utils", "misc", "helpers", "common", "util", "helper")


def functions():
    for module in modules():
        for node in ast.walk(module.tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{module.path}:{node.name}", node


def depth(node: ast.AST) -> int:
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            continue
        inner = depth(child)
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, inner + (isinstance(child, BLOCKS) and not is_elif))
    return deepest


def over(measured: dict[str, int], budget: int) -> list[str]:
    return [
        f"{name} has {size}, the budget is {budget}"
        for name, size in measured.items()
        if size > max(budget, EXCEPTIONS.get(name, (0, "", ""))[0])
    ]


def test_files_are_short():
    wrong = over({str(m.path): m.text.count("\n") for m in modules()}, FILE)
    assert not wrong, "\n".join(wrong)


def test_functions_are_short_flat_and_take_few_parameters():
    lines, nesting, parameters = {}, {}, {}
    for name, node in functions():
        lines[name] = max(lines.get(name, 0), (node.end_lineno or node.lineno) - node.lineno + 1)
        nesting[name] = max(nesting.get(name, 0), depth(node))
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        parameters[name] = max(parameters.get(name, 0), sum(a.arg not in ("self", "cls") for a in arguments))
    wrong = over(lines, FUNCTION) + over(nesting, NESTING) + over(parameters, PARAMETERS)
    assert lines, "no function was found"
    assert not wrong, "\n".join(wrong)


def test_exceptions_are_still_needed_and_only_shrink():
    assert len(EXCEPTIONS) <= MOST_EXCEPTIONS
    names = {str(m.path) for m in modules()} | {name for name, _ in functions()}
    stale = [name for name in EXCEPTIONS if name not in names]
    assert not stale, f"no such file or function any more: {stale}"


def test_no_file_or_folder_has_a_vague_name():
    wrong = [str(path.relative_to(ROOT)) for path in PACKAGE.rglob("*") if path.stem.strip("_") in VAGUE]
    assert not wrong, f"say what it holds: {wrong}"


def test_source_is_ascii():
    wrong = [f"{m.path}: {sorted({c for c in m.text if not c.isascii()})}" for m in modules() if not m.text.isascii()]
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is():
    wrong = [str(m.path) for m in modules() if not ast.get_docstring(m.tree)]
    assert not wrong, f"no docstring: {wrong}"


def test_every_public_class_and_function_has_a_docstring():
    wrong = []
    for module in modules():
        for node in module.tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name[0] != "_"
            if public and not ast.get_docstring(node):
                wrong.append(f"{module.path}:{node.lineno} {node.name}")
    assert not wrong, "\n".join(wrong)


def test_every_test_file_is_collected_and_has_a_name_of_its_own(request):
    """A folder that pytest skips, or that git ignores, would pass in silence."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    names = [path.name for path in files]
    assert sorted({name for name in names if names.count(name) > 1}) == []
    skipped = request.config.getini("norecursedirs")
    assert not [
        path for path in files if any(fnmatch(part, s) for part in path.relative_to(ROOT).parts for s in skipped)
    ]
    folders = {part for path in files for part in path.relative_to(ROOT).parts[1:-1]}
    unanchored = {
        line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines() if not line.startswith("/")
    }
    assert not folders & unanchored
