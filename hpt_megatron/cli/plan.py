"""`hpt plan [OVERRIDE...] [devices=KIND:COUNT]`: what a run will need, before it asks for a GPU.

Memory by phase, the time of a step, and every layout of so many devices, ranked or refused. It is arithmetic on the
configuration: no weights, no GPU, seconds. Exit code 0 where the run's own layout is legal and fits, else 2.

Example:
    $ hpt plan experiment=hpt-7b devices=h100:8
    $ hpt plan experiment=hpt-72b devices=h200:64 --layouts 10 --html runs/plan.html
"""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import UserError
from hpt_megatron.planning.amounts import GIB, in_words

if TYPE_CHECKING:
    from hpt_megatron.config.run import RunConfig
    from hpt_megatron.planning.devices import Asked
    from hpt_megatron.planning.workload import Assumed

DEVICES = "devices="
# What a layout is responsible for: with only such errors a plan can still say which layouts are legal.
OF_LAYOUT = (
    "layout",
    "trainer.n_gpus_per_node",
    "trainer.ppo_mini_batch_size",
    "trainer.ppo_micro_batch_size",
    "trainer.ppo_max_token_len_per_gpu",
    "rollout.tensor_parallel_size",
    "rollout.mm_encoder_tp_mode",
)


def run(arguments: list[str]) -> int:
    """Prints the plan of one run."""
    options = Parser(prog="hpt plan", description=__doc__.splitlines()[0])
    options.takes_run()
    options.add_argument("--json", action="store_true", help="JSON, with every term and every refused layout")
    options.add_argument("--html", type=Path, metavar="FILE", help="also a page with pictures, one file")
    options.add_argument("--layouts", type=int, default=5, metavar="N", help="ranked layouts to print (5)")
    options.add_argument("--split", type=int, default=0, metavar="N", help="N more devices that only sample")
    options.add_argument("--prompt", type=int, metavar="N", help="mean tokens of a prompt (half of the longest)")
    options.add_argument("--response", type=int, metavar="N", help="mean tokens of a response (half of the longest)")
    options.add_argument("--images", type=int, metavar="N", help="images of a prompt (1 for a model with a tower)")
    options.add_argument("--grid", metavar="ROWSxCOLUMNS", help="patches of an image (half of the mean prompt)")
    asked = options.read(arguments)

    from hpt_megatron.planning.answer import plan_run

    chosen, devices, refused = load_for(asked.overrides, asked.config_dir)
    if asked.split < 0 or asked.split % chosen.rollout.tensor_parallel_size:
        tp = chosen.rollout.tensor_parallel_size
        raise UserError(f"{asked.split} devices make no engines of {tp}", where="--split", mend=f"a multiple of {tp}")
    plan = plan_run(chosen, devices, assumed_of(asked), asked.split, refused)
    plan["asked"] = " ".join(asked.overrides) or "experiment=tiny-hpt"
    if asked.html:
        write_page(asked.html, plan)
    if asked.json:
        print(json.dumps(plan, indent=2))
    else:
        show(plan, max(0, asked.layouts))
    return 0 if plan["own"]["legal"] and plan["own"]["fits"] else UserError.exit_code


def load_for(overrides: list[str], folder: Path | None) -> tuple["RunConfig", "Asked", str]:
    """The run on the devices that were asked for, and what validation has against its layout, if only that."""
    from hpt_megatron.config.load import load
    from hpt_megatron.config.problem import counted, errors
    from hpt_megatron.planning.answer import default_devices
    from hpt_megatron.planning.devices import read_devices

    words = [word for word in overrides if not word.startswith(DEVICES)]
    named = [word.removeprefix(DEVICES) for word in overrides if word.startswith(DEVICES)]
    if len(named) > 1:
        raise UserError(f"devices are given {len(named)} times", where="hpt plan", mend="give them once")
    devices = read_devices(named[0]) if named else None
    if devices is not None:
        words += [f"trainer.nnodes={devices.nodes}", f"trainer.n_gpus_per_node={devices.per_node}"]
    loaded = load(words, folder)
    found = errors(loaded.problems)
    others = [problem for problem in found if not problem.path.startswith(OF_LAYOUT)]
    if others:
        raise UserError("\n  ".join([f"the run has {counted(len(others), 'error')}:", *map(str, others)]))
    refused = f"{found[0].path} = {found[0].value}: {found[0].why}" if found else ""
    return loaded.run, devices or default_devices(loaded.run), refused


def assumed_of(asked: Any) -> "Assumed":
    """What the options say about the data."""
    from hpt_megatron.planning.workload import Assumed

    grid = None
    if asked.grid is not None:
        sides = asked.grid.lower().split("x")
        if len(sides) != 2 or not all(side.isascii() and side.isdigit() and 0 < len(side) < 7 for side in sides):
            raise UserError(f"{asked.grid!r} is no grid", where="--grid", mend="ROWSxCOLUMNS in patches, such as 36x36")
        grid = (1, int(sides[0]), int(sides[1]))
    if asked.images is not None and asked.images < 0:
        raise UserError(f"{asked.images} images", where="--images", mend="0 or more")
    return Assumed(asked.prompt, asked.response, asked.images, grid)


def write_page(path: Path, plan: dict[str, Any]) -> None:
    """The page, in one file."""
    from hpt_megatron.planning.page import page

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(plan), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=f"--html {path}", mend="another path") from error


def show(plan: dict[str, Any], layouts: int) -> None:
    """Prints a plan as tables."""
    devices, own = plan["devices"], plan["own"]
    room = devices["room_bytes"] / GIB
    print(f"{plan['asked']}: {devices['count']} x {devices['title']}, {devices['per_node']} on a node")
    print(f"figures: {devices['source']}")
    print(f"\nown layout  {own['text']}")
    print("            " + ("legal, and it fits" if own["fits"] else f"REFUSED: {own['reason']}"))
    if "planned" not in plan:
        show_layouts(plan, layouts)
        return
    if not own["fits"] and own["text"] != plan["planned"]["text"]:
        print(f"planned     {plan['planned']['text']}: the best one that fits")
    elif not own["fits"]:
        print("            no layout fits; this is what the own one would need")
    show_memory(plan, room)
    if "step" in plan:
        show_step(plan)
    else:
        print("\na step has no end: the cache holds no sequence")
    show_layouts(plan, layouts)


def show_memory(plan: dict[str, Any], room: float) -> None:
    """By phase, largest terms first; then the engine's cache and the host's memory."""
    print(f"\nmemory of a device, {room:.1f} GiB to use, at the worst stage and moment of each phase:\n")
    for phase in plan["memory"]:
        mark = "" if phase["fits"] else "  DOES NOT FIT"
        where = f"{phase['role']}, stage {phase['stage']}, {phase['moment']}"
        print(f"  {phase['phase']:<10}{in_words(phase['bytes']):>11}  {where}{mark}")
        for term in sorted(phase["terms"], key=lambda term: -term["bytes"]):
            print(f"{in_words(term['bytes']):>23}  {term['name']}")
    print("\n  what each role holds at home, on its fullest stage:")
    for role in plan["roles"]:
        parts = ", ".join(f"{term['name']} {in_words(term['bytes'])}" for term in role["terms"])
        print(f"  {role['role']:<10}{in_words(role['bytes']):>11}  {parts or 'rules on the host'}")
    engine, host = plan["engine"], plan["host"]
    print(
        f"\n  {engine['engines']} engines of {engine['tp']}: a cache of {engine['cached_tokens']:,} tokens, "
        f"{engine['sequences_of_the_greatest_length']:,} sequences of the greatest length, "
        f"{engine['sequences_at_once']:,} of the mean one at once"
    )
    print(f"  host memory of the driver's node: {in_words(host['bytes'])}")
    for term in sorted(host["terms"], key=lambda term: -term["bytes"]):
        print(f"{in_words(term['bytes']):>23}  {term['name']}")


def show_step(plan: dict[str, Any]) -> None:
    """Seconds, part by part."""
    step, work, published = plan["step"], plan["workload"], plan["publish"]
    print(
        f"\na step: {work['rows']:,} rows of {work['prompt']:,} + {work['response']:,} tokens on average, "
        f"{work['images']} images of {work['grid'][1]} x {work['grid'][2]} patches in a prompt, "
        f"{work['packs'] * work['mini_batches']:,} packs on each replica\n"
    )
    for part in step["parts"]:
        name = f"{part['phase']}: {part['name']}"
        print(f"  {name:<58}{part['seconds']:>11.3f} s{part['seconds'] / step['seconds']:>7.1%}")
    print(f"  {'in all':<58}{step['seconds']:>11.3f} s")
    print(
        f"\n  {step['tokens_per_s']:,.0f} tokens/s, {step['tokens_per_s_per_device']:,.0f} on each device; the update "
        f"uses {step['utilization']:.0%} of the peak\n"
        f"  publishing: {published['buckets']} buckets, {in_words(published['bytes'])} in all, buffers of "
        f"{in_words(published['buffer_bytes'])} at most"
    )


def show_layouts(plan: dict[str, Any], count: int) -> None:
    """The best layouts, and why others were refused."""
    ranked, refused = plan["layouts"]["ranked"], plan["layouts"]["refused"]
    print(f"\nlayouts: {len(ranked):,} fit, {len(refused):,} refused; by predicted tokens/s:\n")
    for one in ranked[:count]:
        fullest = f"{one['phase']} {in_words(one['bytes'])}"
        print(f"  {one['tokens_per_s']:>10,.0f}  {one['text']:<78}{fullest}")
    if not ranked:
        print("  none")
    print("\nrefused, by reason, with an example:\n")
    reasons = Counter(kind_of(one["reason"]) for one in refused)
    examples = {kind_of(one["reason"]): one for one in reversed(refused)}
    for kind, number in reasons.most_common(12):
        print(f"  {number:>6,}  {examples[kind]['text']}\n          {examples[kind]['reason']}")


def kind_of(reason: str) -> str:
    """A reason without its numbers, to count by.

    >>> kind_of("layout.tp = 3: does not divide the 16 attention heads")
    'layout.tp = #: does not divide the # attention heads'
    """
    text = "".join("#" if character.isdigit() else character for character in reason.replace(",", ""))
    while "##" in text or "#.#" in text:
        text = text.replace("##", "#").replace("#.#", "#")
    return text
