"""`hpt data inspect|make|import|corpus`: look at data files, make embedded tasks, bring public sets and corpora in.

Example:
    $ hpt data make count runs/count
    $ hpt data inspect runs/count/train.parquet --html runs/count.html
    $ hpt data inspect runs/count/train.parquet --model runs/tiny-model experiment=hpt-3b data.max_prompt_length=64
    $ hpt data import gsm8k gsm8k/train.jsonl runs/gsm8k.parquet
    $ hpt data corpus decks runs/corpus
"""

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt_megatron.cli.arguments import OVERRIDES, Parser
from hpt_megatron.config.problem import one_line
from hpt_megatron.errors import UserError

if TYPE_CHECKING:
    from hpt_megatron.config.run import DataConfig
    from hpt_megatron.data.inspection import Inspection
    from hpt_megatron.data.prompts import PromptRules

SHOWN = 40  # problems printed; --json and --html have all
LONGEST = 500  # characters of a text of the data on one line
MOST = 10**9


def parser() -> Parser:
    """The verb's own verbs and their options."""
    options = Parser(prog="hpt data", description=(__doc__ or "").splitlines()[0])
    verbs = options.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    one = verbs.add_parser("inspect", help="rows, lengths, images, and all problems at once; exit code 2 with errors")
    one.add_argument("files", nargs="+", metavar="FILE", help=".parquet, .jsonl or .json")
    one.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=f"with --model, as that run would: {OVERRIDES}")
    one.takes_folder()
    one.add_argument("--model", metavar="FOLDER", help="a checkpoint, whose tokenizer measures the lengths")
    one.add_argument("--max-prompt-length", type=count, metavar="N", help="tokens; needs --model")
    one.add_argument("--max-prefix-len", type=count, metavar="N", help="tokens of a target; needs --model")
    one.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: the file's folder)")
    one.add_argument("--html", metavar="OUT", help="also one page with pictures of a few rows")
    one.add_argument("--pictures", type=count, default=12, metavar="N", help="rows on that page (default: 12)")
    one = verbs.add_parser("make", help="a task: color, count, grid, digitsum, lookup, lookup2, zoom, search, pref")
    one.add_argument("task", metavar="TASK")
    one.add_argument("out", metavar="OUT", help="the folder to write")
    one.add_argument("--rows", type=count, metavar="N", help="of training (default: the task's own)")
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
    if not text.isascii() or not text.isdecimal() or len(text) > 10 or not 1 <= int(text) <= MOST:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {MOST} is needed, not {text[:40]!r}")
    return int(text)


def run(arguments: list[str]) -> int:
    """Runs one of them."""
    given, others = parser().parse_known_args(arguments)
    if given.verb == "inspect":  # files and overrides may stand between and after the options
        words = [*given.files, *given.overrides, *(word for word in others if not word.startswith("-"))]
        others = [word for word in others if word.startswith("-")]
        given.overrides = [word for word in words if "=" in word and not Path(word).exists()]
        given.files = [word for word in words if word not in given.overrides]
    if others:
        raise UserError(f"unrecognized arguments: {' '.join(others)}", where="hpt data", mend="see `hpt data --help`")
    verbs = {"inspect": inspect, "make": make, "import": bring_in, "corpus": corpus}
    return verbs[given.verb](given)


def inspect(given: argparse.Namespace) -> int:
    """Prints what the files hold; 2 if a row cannot be used."""
    from hpt_megatron.data.files import check_output
    from hpt_megatron.data.inspection import Limits
    from hpt_megatron.data.inspection import inspect as look
    from hpt_megatron.data.prompts import PromptRules

    if not given.files:
        raise UserError("no file is given", where="hpt data inspect", mend="hpt data inspect FILE...")
    if (given.max_prompt_length or given.max_prefix_len or given.overrides) and not given.model:
        raise UserError("lengths in tokens need a tokenizer", where="hpt data inspect", mend="give --model FOLDER")
    if given.html:
        check_output(given.html, *given.files)
    rules, root = PromptRules(longest=1), given.image_root
    limits = Limits(prompt=given.max_prompt_length, target=given.max_prefix_len)
    if given.overrides:
        data, rules = of_run(given.overrides, given.config_dir)
        limits = Limits(prompt=limits.prompt or rules.longest, target=limits.target or rules.longest_target)
        root = root or data.image_root
    found = look(given.files, given.model, limits, root, rules)
    if given.html:
        from hpt_megatron.data.inspection_page import page

        write(given.html, page(found, given.pictures))
    if given.json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        show(found)
    return 2 if found.errors else 0


def show(found: "Inspection") -> None:
    """Prints an inspection."""
    for name, number in found.counts.items():
        print(f"{name.replace('_', ' '):<20} {number:,}")
    for name, told in found.lengths.items():
        print(f"{name + ' ' + found.unit:<20} " + ", ".join(f"{key} {value:,}" for key, value in told.items()))
    for name, size in found.images.items():
        print(f"{name + ' image':<20} {size[0]} x {size[1]}")
    for name, kinds in found.kinds.items():
        most = list(kinds.items())[:10]
        print(f"{name:<20} " + ", ".join(f"{short(kind) or '(none)'} {number:,}" for kind, number in most))
    columns = ", ".join(f"{name} (-{gone})" if gone else name for name, gone in found.missing.items())
    print(f"{'columns':<20} {short(columns)}")
    if found.numbers:
        print(f"{'numbers':<20} {short(', '.join(found.numbers))}")
    for problem in found.problems[:SHOWN]:
        print(f"{problem.kind}: {short(problem.where)}: {short(problem.what)}")
    if len(found.problems) > SHOWN:
        print(f"... and {len(found.problems) - SHOWN} more; --json or --html show all")


def of_run(overrides: list[str], folder: Path | None) -> "tuple[DataConfig, PromptRules]":
    """The group `data` of a run, and how it makes prompts; only what is wrong with that group matters here."""
    from hpt_megatron.config.load import load
    from hpt_megatron.config.problem import errors
    from hpt_megatron.config.run import RunConfig
    from hpt_megatron.data.build import prompt_rules

    loaded = load(overrides, folder)
    others = tuple(f"{group}." for group in RunConfig.__dataclass_fields__ if group != "data")
    elsewhere = (*others, "data.train_files", "data.val_files")
    wrong = [problem for problem in errors(loaded.problems) if not problem.path.startswith(elsewhere)]
    if wrong:
        raise UserError("; ".join(map(str, wrong)), where="hpt data inspect")
    return loaded.run.data, prompt_rules(loaded.run.data)


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
        if given.json:
            print(
                json.dumps(
                    {name: {"columns": known.columns.split(), "about": known.about} for name, known in SETS.items()},
                    indent=2,
                )
            )
            return 0
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
        print(f"skipped: {short(line)}")
    if len(skipped) > SHOWN:
        print(f"... and {len(skipped) - SHOWN} more; --json shows all")
    for name, number in rows.items():
        print(f"{name:<20} {number:,}")
    print(f"{'wrote':<20} {short(str(told.get('folder') or told.get('file')))}, {seconds:.1f} s")
    return 0


def write(path: str, text: str) -> None:
    """Writes a page."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=path) from error


def short(text: str) -> str:
    """Text of a file as a terminal may show it: no character of it moves the cursor or hides what follows."""
    return one_line(text[:LONGEST])
