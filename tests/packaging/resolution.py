"""What pip would install, without installing it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

Packages = dict[str, dict[str, Any]]  # metadata by name


def resolve(pip_online: Callable[..., str], folder: Path, *requirements: str) -> Packages:
    """The metadata of what pip would install, by name. pip installs nothing."""
    report = folder / "report.json"
    pip_online("install", "--dry-run", "--ignore-installed", "--quiet", "--report", str(report), *requirements)
    found = [item["metadata"] for item in json.loads(report.read_text(encoding="utf-8"))["install"]]
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one for one in found}
