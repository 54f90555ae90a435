"""`hpt convert import|export|verify|inspect`: checkpoints between the hub's format and the trainer's.

Everything is streamed, one parameter at a time, so that a model larger than memory passes through. A folder appears
under its name when it is whole; `--resume` goes on with one that was interrupted.

Example:
    $ hpt tiny runs/tiny-model
    $ hpt convert import runs/tiny-model runs/tiny-megatron
    $ hpt convert export runs/tiny-megatron runs/tiny-again
    $ hpt convert verify runs/tiny-model runs/tiny-again
"""

import argparse
import importlib
import json
import sys
import time
import warnings
from importlib.util import find_spec
from typing import Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.parity import tolerance
from hpt_megatron.errors import UserError

PLAN = "hpt_megatron.cli.convert_plan"


def parser() -> Parser:
    """The verb's own verbs and their options."""
    options = Parser(prog="hpt convert", description=(__doc__ or "").splitlines()[0])
    verbs = options.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    one = verbs.add_parser("import", help="from a folder of the hub to a checkpoint that any layout loads")
    one.add_argument("source", metavar="HF_DIR", help="a folder in the Hugging Face layout")
    one.add_argument("out", metavar="OUT", help="the checkpoint to write; it must not exist or be empty")
    one.add_argument("--layout", metavar="SIZES", help="tp=2,pp=2: refuse a model that cannot be laid out so")
    one = verbs.add_parser("export", help="from a checkpoint of a run, or an imported one, to a folder of the hub")
    one.add_argument("source", metavar="CKPT", help="a folder that holds `metadata.json`")
    one.add_argument("out", metavar="OUT", help="the folder to write; it must not exist or be empty")
    one.add_argument("--dtype", choices=("bf16", "fp32"), help="what the tensors become (default: what they are)")
    one.add_argument("--like", metavar="HF_DIR", help="whose configuration, tokenizer and processor it gets")
    quantised = ("fp8", "int8", "int4_awq")
    one.add_argument("--quantize", choices=quantised, help="quantised by ModelOpt, in the layout that vLLM loads")
    one.add_argument("--calibration", metavar="FILE", help="prompts that int4_awq is calibrated on (JSON lines)")
    for each in ("import", "export"):
        verbs.choices[each].add_argument("--resume", action="store_true", help="go on with an interrupted one")
    one = verbs.add_parser("verify", help="whether two checkpoints, of either format, hold the same")
    one.add_argument("one", metavar="A", help="a checkpoint of either format")
    one.add_argument("other", metavar="B", help="another one")
    one.add_argument(
        "--tolerance", type=tolerance, metavar="X", help="largest relative difference (default: none, bit for bit)"
    )
    one.add_argument("--logits", action="store_true", help="also what both say about a fixed text with images")
    one = verbs.add_parser("inspect", help="tensors, parameters by part, layout, digest; of either format")
    one.add_argument("path", metavar="PATH", help="a checkpoint of either format")
    one.add_argument("--quick", action="store_true", help="without the digest, for which everything is read")
    for each in ("import", "export", "verify", "inspect"):
        verbs.choices[each].add_argument("--json", action="store_true", help="print one JSON object")
    if find_spec(PLAN) is not None:
        verbs.add_parser("plan", help="which bytes go where between two layouts")
    return options


def run(arguments: list[str]) -> int:
    """Runs one of them."""
    if arguments[:1] == ["plan"] and find_spec(PLAN) is not None:
        return int(importlib.import_module(PLAN).run(arguments[1:]))
    given = parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    verbs = {"import": convert, "export": convert, "verify": verify, "inspect": inspect}
    return verbs[given.verb](given)


def convert(given: argparse.Namespace) -> int:
    """Import or export."""
    started = time.monotonic()
    if given.verb == "import":
        from hpt_megatron.weights.execute.importing import import_folder

        made = import_folder(given.source, given.out, given.resume, given.layout)
    elif given.quantize or given.calibration:
        made = quantise(given)
    else:
        from hpt_megatron.weights.execute.exporting import export_checkpoint

        made = export_checkpoint(given.source, given.out, given.dtype, given.like, given.resume)
    seconds = time.monotonic() - started
    size = sum(size_of(tensor) for tensor in made["tensors"].values())
    told = {"folder": given.out, "format": made["format"], "tensors": len(made["tensors"]), "bytes": size}
    if given.json:
        print(json.dumps({**told, "digest": made["digest"], "seconds": round(seconds, 3)}, indent=2))
        return 0
    print(f"wrote    {given.out}, {made['format']}")
    print(f"tensors  {told['tensors']:,}, {size:,} bytes, {seconds:.1f} s")
    print(f"digest   {made['digest']}")
    return 0


def quantise(given: argparse.Namespace) -> dict[str, Any]:
    """A quantised export; what it is calibrated on is said before the long part."""
    mend = "leave it away"
    if given.calibration and given.quantize != "int4_awq":
        what = "int4_awq alone is calibrated: fp8 and int8 scale activations as they come"
        raise UserError(what, where="--calibration", mend=mend)
    if given.resume:
        raise UserError("a quantised export starts again, for ModelOpt does", where="--resume", mend=mend)
    if given.quantize == "int4_awq" and not given.calibration:
        print(
            "hpt: calibrated on tokens drawn at random, which is no language; for a model that will be used "
            "give prompts with --calibration FILE",
            file=sys.stderr,
        )
    from pathlib import Path

    from hpt_megatron.weights.quantise.exporting import Quantising, export_quantised

    asked = Quantising(given.quantize, Path(given.calibration) if given.calibration else None)
    return export_quantised(given.source, given.out, asked, given.dtype, given.like)


def size_of(tensor: dict[str, Any]) -> int:
    """Bytes of a tensor as a manifest describes it."""
    from hpt_megatron.weights.safetensors_file import Info

    return Info(tensor["dtype"], tuple(tensor["shape"])).nbytes


def verify(given: argparse.Namespace) -> int:
    """Prints every difference; exit code 1 where there is one."""
    from dataclasses import asdict

    from hpt_megatron.weights.execute.comparing import verify as compare

    if given.logits:
        check_logits_possible(given)
    count, found = compare(given.one, given.other, given.tolerance)
    said = logits_apart(given.one, given.other) if given.logits else None
    beyond = said is not None and said > (given.tolerance or 0.0)
    equal = not found and not beyond
    if given.json:
        told = {"tensors": count, "differences": [asdict(one) for one in found], "logits": said, "equal": equal}
        print(json.dumps(told, indent=2))
        return 0 if equal else 1
    for one in found:
        apart = f", {one.absolute:.1e} absolute, {one.relative:.1e} relative" if one.absolute else ""
        print(f"{one.name}: {one.what}{apart}")
    if said is not None:
        print(f"logits: {said:.1e} relative")
    within = "bit for bit" if given.tolerance is None else f"within {given.tolerance:g}"
    print(f"{count:,} tensors equal {within}" if equal else f"NOT equal: {len(found)} of {count:,} tensors differ")
    return 0 if equal else 1


def check_logits_possible(given: argparse.Namespace) -> None:
    """Transformers runs folders of the hub alone."""
    from hpt_megatron.weights.execute.comparing import open_folder

    other = [path for path in (given.one, given.other) if open_folder(path).kind != "hf"]
    if other:
        raise UserError("--logits needs two folders of the hub", where=other[0], mend="export it first")


def logits_apart(one: str, other: str) -> float:
    """The largest difference of what transformers says about fixed rows, over the largest logit."""
    from hpt_megatron.config.checkpoint import model_of
    from hpt_megatron.parity.compare import apart
    from hpt_megatron.parity.reference import reference_logits
    from hpt_megatron.parity.rows import random_batch

    model = model_of(one)
    batch = random_batch(model, seed=0, rows=3)
    return apart(reference_logits(one, model, batch), reference_logits(other, model, batch))[1]


def inspect(given: argparse.Namespace) -> int:
    """Prints what a checkpoint holds; exit code 1 where something is wrong with it."""
    from hpt_megatron.weights.execute.comparing import inspect as look

    told = look(given.path, given.quick)
    if given.json:
        print(json.dumps(told, indent=2))
        return 1 if told["problems"] else 0
    layout = " x ".join(f"{key} {size}" for key, size in told["layout"].items() if size > 1) or "none"
    counts = told["parameters"]
    print(f"format      {told['format']}, {told['family'] or 'no configuration'}, names of the {told['names']}")
    print(f"layout      {layout}" + (", with an optimizer" if told.get("optimizer") else ""))
    print(
        f"parameters  {counts['total']:,}: language {counts['language']:,} (embeddings {counts['embeddings']:,}),"
        f" vision {counts['vision']:,}"
    )
    print(f"tensors     {len(told['tensors']):,}, {told['bytes']:,} bytes")
    print(f"digest      {told['digest'] or 'not computed'}\n")
    for name, tensor in told["tensors"].items():
        print(f"{tensor['dtype']:<5} {tensor['shape']!s:<22} {name}")
    for problem in told["problems"]:
        print(f"wrong: {problem}")
    return 1 if told["problems"] else 0
