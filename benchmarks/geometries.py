"""What each rank of the shipped experiments holds before any activation, by pipeline stage, from the real classes.

    python benchmarks/geometries.py [experiment ...]

The stages are built on the meta device, so this takes seconds and no memory, whatever the size.
"""

import argparse
import time

from hpt_megatron.config.load import load
from hpt_megatron.mcore.initialize import Rendezvous
from hpt_megatron.mcore.local_processes import run as run_processes
from hpt_megatron.mcore.model.blueprint import StageSize, blueprint

EXPERIMENTS = ("hpt-3b", "hpt-7b", "hpt-32b", "hpt-72b")
GIB = 2**30


def build(where: Rendezvous, experiment: str) -> list[StageSize]:
    """In a process of its own, whose only process groups are fake ones."""
    return blueprint(load([f"experiment={experiment}"]).run)


def main() -> None:
    """Prints one table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    heads = ("parameters", "weights", "gradients", "optimizer", "in all")
    print(f"{'experiment':<11}{'layout':<18}{'stage':>6}{'layers':>7}" + "".join(f"{head:>15}" for head in heads))
    started, total = time.perf_counter(), 0
    for experiment in options.parse_args().experiments:
        run = load([f"experiment={experiment}"]).run
        layout = f"tp {run.layout.tp} pp {run.layout.pp} cp {run.layout.cp} dp {run.dp}"
        for stage in run_processes(1, build, experiment)[0]:
            sizes = (stage.weight_bytes, stage.gradient_bytes, stage.optimizer_bytes, stage.bytes)
            line = f"{experiment:<11}{layout:<18}{stage.pp_rank:>6}{stage.layers:>7}{stage.parameters:>15,}"
            print(line + "".join(f"{size / GIB:>11.2f} GiB" for size in sizes))
            total += stage.whole
    print(f"\n{total:,} parameters in all models together, built in {time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
