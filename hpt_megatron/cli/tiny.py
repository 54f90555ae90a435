"""`hpt tiny OUT`: writes the tiny Qwen2.5-VL, with tokenizer and processor, in the Hugging Face layout.

The same seed gives the same bytes each time.

Example:
    $ hpt tiny runs/tiny --seed 0
"""

import argparse
import json
import time

from hpt_megatron.cli.arguments import Parser


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt tiny", description=__doc__.split("\n")[0])
    options.add_argument("out", metavar="OUT", help="the folder to write; it must not exist or be empty")
    options.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="what the weights are drawn from (default: 0)"
    )
    options.add_argument("--overwrite", action="store_true", help="replace a tiny model that is there already")
    options.add_argument("--json", action="store_true", help="print one JSON object, with the SHA-256 of every file")
    return options


def seed(text: str) -> int:
    """A seed as numpy takes it: a whole number from 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 is needed, not {text!r}")
    return int(text)


def run(arguments: list[str]) -> int:
    """Writes the model and prints what was written."""
    given = parser().parse_args(arguments)
    started = time.monotonic()
    from hpt_megatron.config.geometry import language_parameters, parameters
    from hpt_megatron.embedded.folder import digests, shown, tiny_model, write_tiny
    from hpt_megatron.embedded.vocabulary import token_ids

    folder = write_tiny(given.out, given.seed, given.overwrite)
    model = tiny_model()
    total, language = parameters(model), language_parameters(model)
    counts = {"language": language, "vision": total - language, "embeddings": model.vocab_size * model.hidden_size}
    size = sum(path.stat().st_size for path in folder.iterdir())
    seconds = time.monotonic() - started
    if given.json:
        told = {"folder": str(folder), "seed": given.seed, "parameters": {**counts, "total": total}, "bytes": size}
        print(json.dumps({**told, "seconds": round(seconds, 3), "sha256": digests(folder)}, indent=2))
        return 0
    print(f"wrote       {shown(folder)}")
    print(
        f"parameters  {total:,}: language {counts['language']:,} (embeddings {counts['embeddings']:,}),"
        f" vision {counts['vision']:,}"
    )
    print(f"tokens      {len(token_ids())} of {model.vocab_size} rows")
    print(f"files       {len(list(folder.iterdir()))}, {size:,} bytes, {seconds:.1f} s")
    return 0
