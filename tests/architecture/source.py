"""The package's source as trees, read once for all architecture tests."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "hpt_megatron"


@dataclass(frozen=True)
class Module:
    """One file: its path in the repository, dotted name, text and tree."""

    path: Path
    name: str
    text: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The package of ours that the file belongs to (`config`, `driver.ray`), or its own name at the top."""
        return ".".join(self.name.split(".")[1:-1]) or self.name.split(".")[-1]

    def imports(self) -> list[tuple[str, int]]:
        """Every imported module with its line, those inside functions included; `from a import b` counts as `a.b`."""
        found = []
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found += [(alias.name, node.lineno) for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        return found


@cache
def modules() -> tuple[Module, ...]:
    """All Python files of the package."""
    return tuple(_read(path) for path in sorted(PACKAGE.rglob("*.py")))


def _read(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    relative = path.relative_to(ROOT)
    parts = [*relative.parts[:-1], relative.stem]
    name = ".".join(parts)
    return Module(relative, name, text, ast.parse(text))
