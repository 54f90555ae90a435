"""`hpt convert plan [OVERRIDE...]`: how a run's weights would travel from its trainer to its engines.

Nothing is moved and no weights are needed: it is arithmetic on the two layouts. Seconds are what the links allow.

Example:
    $ hpt convert plan experiment=hpt-7b rollout.tensor_parallel_size=4
    $ hpt convert plan experiment=hpt-72b --json
"""

import json
from typing import TYPE_CHECKING, Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.planning.this_host import memory_rate

if TYPE_CHECKING:
    from hpt_megatron.config.run import RunConfig
    from hpt_megatron.weights.plan.bucket import Plan
    from hpt_megatron.weights.plan.cost import Cost

MIB, GIB = 1 << 20, 1 << 30


def run(arguments: list[str]) -> int:
    """Prints the plan of one run."""
    options = Parser(prog="hpt convert plan", description=__doc__.splitlines()[0])
    options.takes_run()
    options.add_argument("--dry-run", action="store_true", help="what it does anyway: only print")
    options.add_argument("--json", action="store_true", help="JSON, with bytes of every rank and link")
    asked = options.read(arguments)

    from hpt_megatron.config.load import load_run

    chosen = load_run(asked.overrides, asked.config_dir)

    from hpt_megatron.weights.plan.cost import cost
    from hpt_megatron.weights.plan.publish import plan_of_run

    plan = plan_of_run(chosen)
    told = describe(chosen, plan, cost(plan))
    if asked.json:
        print(json.dumps(told, indent=2))
    else:
        show(told)
    return 0


def describe(chosen: "RunConfig", plan: "Plan", counted: "Cost") -> dict[str, Any]:
    """A plan as plain values."""
    from hpt_megatron.weights.plan.cost import LINKS, PLACED

    layout, rollout = chosen.layout, chosen.rollout
    sizes = {"tp": layout.tp, "pp": layout.pp, "vpp": layout.vpp, "cp": layout.cp, "dp": chosen.dp}
    engines = {"engines": plan.target.ranks // rollout.tensor_parallel_size, "tp": rollout.tensor_parallel_size}
    here, node, network = counted.by_distance
    host = memory_rate()
    seconds = {name: (rate, *counted.seconds(rate, rate)) for name, rate in LINKS.items()}
    seconds["as placed"] = (0.0, *counted.seconds(*PLACED))
    seconds["host memory"] = (host, *(counted.total / (host * 1e9),) * 2)
    return {
        "trainer": sizes,
        "rollout": engines,
        "devices": {"all": chosen.devices, "per_node": chosen.trainer.n_gpus_per_node},
        "dtype": chosen.trainer.dtype,
        "bucket_mib": rollout.publish_bucket_mb,
        "buckets": [
            {
                "stage": bucket.lane,
                "modules": list(bucket.modules),
                "transfers": len(bucket.transfers),
                "bytes": bucket.bytes,
                "oversize": bucket.oversize,
            }
            for bucket in plan.buckets
        ],
        "bytes": {"all": counted.total, "same_device": here, "same_node": node, "between_nodes": network},
        "sent": [counted.sent(rank) for rank in range(plan.source.ranks)],
        "received": [counted.received(rank) for rank in range(plan.target.ranks)],
        "links": [[*link, size] for link, size in sorted(counted.links.items())],
        "buffer_bytes": list(counted.buffers),
        "seconds": {
            name: {"gb_per_s": round(rate, 2) or None, "at_once": round(at_once, 6), "in_turn": round(in_turn, 6)}
            for name, (rate, at_once, in_turn) in seconds.items()
        },
    }


def show(told: dict[str, Any]) -> None:
    """Prints a plan as tables."""
    sizes = " ".join(f"{name} {size}" for name, size in told["trainer"].items())
    rollout, count = told["rollout"], len(told["buckets"])
    print(
        f"{told['devices']['all']} devices, {told['devices']['per_node']} on a node: trainer {sizes} -> "
        f"{rollout['engines']} engines of tp {rollout['tp']}, {told['dtype']}\n"
    )
    print(f"{count} buckets of at most {told['bucket_mib']:,} MiB at a receiver, each of whole modules:\n")
    print(f"{'':>6}  {'stage':>5}  {'modules':>7}  {'transfers':>9}  {'MiB':>9}  first and last module")
    for number, bucket in enumerate(told["buckets"]):
        mark = "  (oversize)" if bucket["oversize"] else ""
        ends = list(dict.fromkeys((bucket["modules"][0], bucket["modules"][-1])))
        print(
            f"{number:>6}  {bucket['stage']:>5}  {len(bucket['modules']):>7}  {bucket['transfers']:>9,}  "
            f"{bucket['bytes'] / MIB:>9,.1f}  {' .. '.join(ends)}{mark}"
        )
    split = told["bytes"]
    print(
        f"\nbytes    {size_of(split['all'])} received: {size_of(split['same_device'])} on the device itself, "
        f"{size_of(split['same_node'])} within a node, {size_of(split['between_nodes'])} between nodes"
    )
    for name in ("sent", "received"):
        ranks = told[name]
        print(f"{name:<9}{size_of(min(ranks))} to {size_of(max(ranks))} by a rank, over its links")
    source, target, most = max(told["links"], key=lambda link: (link[0] != link[1], link[2]))
    crossing = sum(source != target for source, target, _ in told["links"])
    if crossing:
        print(f"links    {crossing:,} in use, the busiest {size_of(most)} from rank {source} to rank {target}")
    print(f"buffers  {size_of(max(told['buffer_bytes']))} at most on a device, beside its weights\n")
    print(f"{'seconds, at best':<34}{'at once':>10}  {'in turn':>10}")
    for name, row in told["seconds"].items():
        rate = f"{row['gb_per_s']:,.1f} GB/s" if row["gb_per_s"] else "the first two"
        print(f"{name:<21}{rate:<13}{row['at_once']:>10.4f}  {row['in_turn']:>10.4f}")
    print(
        "\nAt once: every link busy until all is sent. In turn: bucket after bucket. As placed: NVLink4 within a\n"
        "node, InfiniBand between nodes. Host memory: one copy of all bytes here, at the rate measured just now."
    )


def size_of(size: int) -> str:
    """Bytes in words."""
    return f"{size / GIB:,.2f} GiB" if size >= GIB else f"{size / MIB:,.2f} MiB" if size else "0"
