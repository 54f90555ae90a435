"""`hpt data inspect|make|import|corpus`: look at data files, make embedded tasks, bring public sets and corpora in.

Example:
    $ hpt data make count runs/count
    $ hpt data inspect runs/count/train.parquet --html runs/count.html
    $ hpt data import gsm8k gsm8k/train.jsonl runs/gsm8k.parquet
    $ hpt data corpus decks runs/corpus
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import UserError

SHOWN = 40  # problems printed; --json and --html have all


def parser() -> Parser:
    """The verb's own verbs and their options."""
    options = Parser(prog="hpt data", description=(__doc__ or "").splitlines()[0])
    verbs = options.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    one = verbs.add_parser("inspect", help="rows, lengths, images, and all problems at once; exit code 2 with errors")
    one.add_argument("files", nargs="+", metavar="FILE", help=".parquet, .jsonl or .json")
    one.add_argument("--model", metavar="FOLDER", help="a checkpoint, whose tokenizer measures the lengths")
    one.add_argument("--max-prompt-length", type=count, metavar="N", help="tokens; needs --model")
    one.add_argument("--max-prefix-len", type=count, metavar="N", help="tokens of a target; needs --model")
    one.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: the file's folder)")
    one.add_argument("--html", metavar="OUT", help="also one page with pictures of a few rows")
    one.add_argument("--pictures", type=count, default=12, metavar="N", help="rows on that page (default: 12)")
    one = verbs.add_parser("make", help="an embedded task: color, count, digitsum, lookup, lookup2, zoom, pref")
    one.add_argument("task", metavar="TASK")
    one.add_argument("out", metavar="OUT", help="the folder to write")
    one.add_argument("--rows", type=count, default=512, metavar="N", help="of training (default: 512)")
    one.add_argument("--val-rows", type=count, default=128, metavar="N", help="of validation (default: 128)")
    one.add_argument("--seed", type=int, default=0, metavar="N", help="the same seed gives the same bytes (default: 0)")
    one = verbs.add_parser("import", help="a public data set, as it was downloaded, in our schema")
    one.add_argument("set", metavar="SET", help="its name; `hpt data import list` shows all")
    one.add_argument("source", nargs="?", metavar="IN", help="its file: .parquet, .jsonl or .json")
    one.add_argument("out", nargs="?", metavar="OUT", help="the .parquet or .jsonl file to write")
    one.add_argument("--most", type=count, metavar="N", help="no more than so many rows")
    one.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: the file's folder)")
    one.add_argument("--skip", action="store_true", help="leave out rows that cannot be used, and list them")
    one = verbs.add_parser("corpus", help="a folder of images or PDFs as a corpus for the search service")
    one.add_argument(
        "source", metavar="IN", help="a folder of images (text beside as .txt) and PDFs, or SlideVQA's file"
    )
    one.add_argument("out", metavar="OUT", help="the folder to write")
    one.add_argument("--dpi", type=count, default=144, metavar="N", help="of PDF pages (default: 144)")
    for each in ("inspect", "make", "import", "corpus"):
        verbs.choices[each].add_argument("--json", action="store_true", help="print one JSON object")
    return options


def count(text: str) -> int:
    """A whole number from 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 is needed, not {text!r}")
    return int(text)


def run(arguments: list[str]) -> int:
    """Runs one of them."""
    given = parser().parse_args(arguments)
    verbs = {"inspect": inspect, "make": make, "import": bring_in, "corpus": corpus}
    return verbs[given.verb](given)


def inspect(given: argparse.Namespace) -> int:
    """Prints what the files hold; 2 if a row cannot be used."""
    from hpt_megatron.data.inspection import Inspection, Limits
    from hpt_megatron.data.inspection import inspect as look

    if (given.max_prompt_length or given.max_prefix_len) and not given.model:
        raise UserError("lengths in tokens need a tokenizer", where="hpt data inspect", mend="give --model FOLDER")
    limits = Limits(prompt=given.max_prompt_length, target=given.max_prefix_len)
    found: Inspection = look(given.files, given.model, limits, given.image_root)
    if given.html:
        from hpt_megatron.data.inspection_page import page

        write(given.html, page(found, given.pictures))
    if given.json:
        print(json.dumps(found.as_json(), indent=2))
        return 2 if found.errors else 0
    for name, number in found.counts.items():
        print(f"{name.replace('_', ' '):<20} {number:,}")
    for name, told in found.lengths.items():
        print(f"{name + ' ' + found.unit:<20} " + ", ".join(f"{key} {value:,}" for key, value in told.items()))
    for name, size in found.images.items():
        print(f"{name + ' image':<20} {size[0]} x {size[1]}")
    for name, kinds in found.kinds.items():
        most = list(kinds.items())[:10]
        print(f"{name:<20} " + ", ".join(f"{kind or '(none)'} {number:,}" for kind, number in most))
    print(
        f"{'columns':<20} " + ", ".join(f"{name} (-{gone})" if gone else name for name, gone in found.missing.items())
    )
    if found.numbers:
        print(f"{'numbers':<20} {', '.join(found.numbers)}")
    for problem in found.problems[:SHOWN]:
        print(f"{problem.kind}: {one_line(problem.where)}: {one_line(problem.what)}")
    if len(found.problems) > SHOWN:
        print(f"... and {len(found.problems) - SHOWN} more; --json or --html show all")
    return 2 if found.errors else 0


def make(given: argparse.Namespace) -> int:
    """Writes an embedded task."""
    from hpt_megatron.data.tasks.make import make as write_task

    started = time.monotonic()
    written = write_task(given.task, given.out, given.rows, given.val_rows, given.seed)
    return tell(given, {"folder": given.out, "rows": written}, started)


def bring_in(given: argparse.Namespace) -> int:
    """Writes a public set in our schema."""
    from hpt_megatron.data.importers.sets import SETS, import_set

    if given.set == "list":
        for name, known in SETS.items():
            print(f"{name:<16} {known.about}")
        return 0
    if given.source is None or given.out is None:
        raise UserError("IN and OUT are needed", where="hpt data import", mend="hpt data import SET IN OUT")
    started = time.monotonic()
    made = import_set(given.set, given.source, given.out, given.most, given.image_root, given.skip)
    return tell(given, {"file": given.out, "rows": {given.set: made.rows}, "skipped": made.skipped}, started)


def corpus(given: argparse.Namespace) -> int:
    """Builds a corpus."""
    from hpt_megatron.data.corpus import build

    started = time.monotonic()
    built = build(given.source, given.out, given.dpi)
    return tell(given, {"folder": given.out, "rows": {"pages": built.pages}, "skipped": built.skipped}, started)


def tell(given: argparse.Namespace, told: dict[str, Any], started: float) -> int:
    """Says what was written."""
    seconds = round(time.monotonic() - started, 3)
    if given.json:
        print(json.dumps({**told, "seconds": seconds}, indent=2))
        return 0
    skipped, rows = told.get("skipped", []), told["rows"]
    for line in skipped[:SHOWN]:
        print(f"skipped: {one_line(line)}")
    if len(skipped) > SHOWN:
        print(f"... and {len(skipped) - SHOWN} more; --json shows all")
    for name, number in rows.items():
        print(f"{name:<20} {number:,}")
    print(f"{'wrote':<20} {one_line(str(told.get('folder') or told.get('file')))}, {seconds:.1f} s")
    return 0


def write(path: str, text: str) -> None:
    """Writes a page."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=path) from error


def one_line(text: str) -> str:
    """Text of a file as a terminal may show it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)[:500]
