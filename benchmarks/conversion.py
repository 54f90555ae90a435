"""Seconds and memory of `hpt convert import` and `export`, beside `cp` and fsync of the same files in the same run.

    python benchmarks/conversion.py [--scale half|3b] [--repeat N]

A checkpoint with random weights in bfloat16 is written first: about 0.6 GB, or the 3B geometry's 7.5 GB. Every
conversion is a process of its own, whose RssAnon + RssShmem are sampled; the promise is 2 GiB plus the largest tensor.
Nothing is asserted: the figures depend on the disk.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from hpt_megatron.config.load import load
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.shapes import shapes
from hpt_megatron.embedded.model_config import model_config

SCALES = {
    "half": ("model=qwen2.5-vl-3b", "model.num_hidden_layers=2", "model.vocab_size=40960", "model.vision.depth=8"),
    "3b": ("model=qwen2.5-vl-3b",),
}
SHARD = 4 * 10**9


def write_checkpoint(model: ModelConfig, folder: Path) -> int:
    """Random numbers in bfloat16, in shards; answers the bytes."""
    folder.mkdir()
    assert model.vision is not None
    (folder / "config.json").write_text(json.dumps(model_config(model, model.vision)))
    groups: list[dict[str, torch.Tensor]] = [{}]
    size = total = 0
    where = {}
    for number, (name, shape) in enumerate(shapes(model).items()):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(number)).bfloat16()
        if size + tensor.nbytes > SHARD and groups[-1]:
            save_file(groups[-1], folder / f"part-{len(groups)}.safetensors")
            groups[-1].clear()
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        where[name] = f"part-{len(groups)}.safetensors"
        size, total = size + tensor.nbytes, total + tensor.nbytes
    save_file(groups[-1], folder / f"part-{len(groups)}.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return total


def memory_of(process: int) -> int:
    """Bytes that belong to a process alone: what no file can take back."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    lines = [line.split() for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem"))]
    return sum(int(words[1]) * 1024 for words in lines)


def run(*command: str) -> tuple[float, int]:
    """Seconds of a process, and the most memory that it had."""
    started, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        most = max(most, memory_of(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - started, most


def copy(source: Path, out: Path) -> float:
    """Seconds of `cp` and of waiting for the disk."""
    started = time.perf_counter()
    subprocess.run(["cp", "-r", "--reflink=never", str(source), str(out)], check=True)
    for path in out.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return time.perf_counter() - started


def main() -> None:
    """Prints a table."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--scale", choices=SCALES, default="half")
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--folder", type=Path, default=None, help="where to write (default: the temporary folder)")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        where = Path(name)
        size = write_checkpoint(load([*SCALES[given.scale], "layout=tp1"]).run.model, where / "hub")
        hpt = (sys.executable, "-m", "hpt_megatron", "convert")
        seconds: dict[str, list[float]] = {"cp and fsync": [], "import": [], "export": []}
        memory = {"cp and fsync": 0, "import": 0, "export": 0}
        for _ in range(given.repeat):
            for each in ("copy", "checkpoint", "out"):
                shutil.rmtree(where / each, ignore_errors=True)
            os.sync()
            seconds["cp and fsync"].append(copy(where / "hub", where / "copy"))
            for verb, source, out in (("import", "hub", "checkpoint"), ("export", "checkpoint", "out")):
                shutil.rmtree(where / "copy", ignore_errors=True)
                os.sync()
                took, most = run(*hpt, verb, str(where / source), str(where / out))
                seconds[verb].append(took)
                memory[verb] = max(memory[verb], most)
        base = statistics.median(seconds["cp and fsync"])
        start = statistics.median(run(*hpt, "inspect", "--quick", str(where / "hub"))[0] for _ in range(given.repeat))
        print(f"{size / 1e9:.2f} GB of bfloat16, medians of {given.repeat}; {start:.2f} s are imports\n")
        for what, taken in seconds.items():
            middle = statistics.median(taken)
            rate, most = size / middle / 2**20, memory[what] / 2**20
            print(
                f"{what:<14}{middle:7.2f} s  {rate:6.0f} MiB/s  {middle / base:5.2f} x cp  {most:6.0f} MiB of its own"
            )


if __name__ == "__main__":
    main()
