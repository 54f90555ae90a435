"""An import looks down, never up and never sideways; heavy packages stay in their rooms."""

import subprocess
import sys

import pytest
from source import modules

pytestmark = pytest.mark.fast

# From the ground up. Parts on one floor do not know one another. A new package takes its place here first.
FLOORS = [
    ["errors"],
    ["registry", "percentile", "web"],
    ["config", "protocol"],
    ["host", "device", "algorithms", "layout", "rewards", "data", "search", "observe"],
    ["weights"],
    ["planning"],
    ["mcore", "rollout", "embedded"],
    ["parity", "driver"],
    ["recipes", "report"],
    ["cluster", "feedback"],
    ["sweeps"],
    ["grpo"],
    ["cli"],
]
# Who may name a heavy package. A path ends in "/" for a folder.
QUARANTINE = {
    "ray": ["hpt_megatron/driver/ray/"],
    "vllm": ["hpt_megatron/rollout/engine/vllm_"],
    "megatron": ["hpt_megatron/mcore/", "hpt_megatron/weights/execute"],
    "transformers": [
        "hpt_megatron/data/chat.py",
        "hpt_megatron/mcore/model/vision.py",
        "hpt_megatron/parity/reference.py",
        "hpt_megatron/weights/quantise/",
    ],
    "modelopt": ["hpt_megatron/weights/quantise/modelopt.py"],
    "transformer_engine": ["hpt_megatron/mcore/capability.py"],
    "apex": ["hpt_megatron/mcore/capability.py"],
    "hydra": ["hpt_megatron/config/compose.py"],
    "omegaconf": ["hpt_megatron/config/compose.py"],
    "matplotlib": ["hpt_megatron/report/paper.py"],
}
TORCH_FREE = [
    *("errors", "registry", "percentile", "web", "config", "host", "layout", "planning", "rewards", "report", "cli"),
    "cluster",
    *("weights.kinds", "weights.families", "weights.table", "weights.plan"),
]
HEAVY = ("torch", "ray", "vllm", "megatron", "transformers", "numpy", "matplotlib")


def floor_of(part: str) -> int:
    head = part.split(".")[0]
    return next((height for height, parts in enumerate(FLOORS) if head in parts), -1)


def test_every_package_has_its_floor():
    """Not covered: whether the floor is the right one; that is what the next test shows."""
    unplaced = {
        m.part for m in modules() if m.part not in ("hpt_megatron", "__init__", "__main__") and floor_of(m.part) < 0
    }
    assert not unplaced, f"packages without a floor in {__file__}: {sorted(unplaced)}"


def test_no_import_looks_up_or_sideways():
    wrong = []
    for module in modules():
        own = module.part.split(".")[0]
        for name, line in module.imports():
            if not name.startswith("hpt_megatron.") or module.name == "hpt_megatron.__main__":
                continue
            other = name.split(".")[1]
            if other != own and floor_of(other) >= floor_of(own) and floor_of(other) >= 0:
                wrong.append(f"{module.path}:{line} ({own}) looks at {name}, which is not below it")
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_stay_in_their_rooms():
    wrong = [
        f"{module.path}:{line} imports {name}"
        for module in modules()
        for name, line in module.imports()
        for heavy, rooms in QUARANTINE.items()
        if name.split(".")[0] == heavy and not any(str(module.path).startswith(room) for room in rooms)
    ]
    assert not wrong, "\n".join(wrong)


def test_torch_free_packages_import_without_the_engines():
    """In a process of its own, where importing an engine raises; so nothing reaches one through a detour either."""
    names = sorted(
        m.name.removesuffix(".__init__")
        for m in modules()
        if any(f"{m.name}.".startswith(f"hpt_megatron.{free}.") for free in TORCH_FREE)
    )
    program = (
        "import importlib, sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(len(sys.modules) > 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert names, "no torch-free package was found"


def test_no_circle_between_files():
    graph = {m.name.removesuffix(".__init__"): set() for m in modules()}
    for module in modules():
        own = module.name.removesuffix(".__init__")
        for name, _ in module.imports():
            target = name if name in graph else name.rpartition(".")[0]
            if target in graph and target != own:
                graph[own].add(target)
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, f"circle: {' -> '.join((*trail[trail.index(node) :], node))}"
        if node not in done:
            for other in sorted(graph[node]):
                visit(other, (*trail, node))
            done.add(node)

    for node in sorted(graph):
        visit(node, ())
