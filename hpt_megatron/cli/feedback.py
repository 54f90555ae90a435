"""`hpt feedback label|revise IN OUT`: AI feedback by principles, from a judge behind an HTTP address.

label     which of two answers is better, in both orders: preference rows, each with its principle, votes and margin
revise    an answer is criticised by a principle and revised: rows for supervised training

OUT is written whole or not at all. Replies are kept beside it until then, so the same command goes on where it stopped.

Example:
    $ hpt feedback label pairs.parquet labels.parquet --judge http://127.0.0.1:8000/v1/chat/completions --judge-model M
    $ hpt feedback revise sft.parquet revised.parquet --judge http://127.0.0.1:8000/v1/chat/completions --dry-run
"""

import argparse
import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.data import count, short
from hpt_megatron.cli.tiny import seed
from hpt_megatron.errors import UserError

if TYPE_CHECKING:
    from hpt_megatron.feedback.asking import Asking
    from hpt_megatron.feedback.cases import Cases
    from hpt_megatron.feedback.label import Labelled
    from hpt_megatron.rewards.judge import Judge

SHOWN = 10  # rows that cannot be used; --json has all


def takes_judge(options: Parser, required: bool) -> None:
    """Adds where the judge is and how it is asked."""
    options.add_argument(
        "--judge", metavar="URL", required=required, help="http://HOST:PORT/v1/chat/completions of any such server"
    )
    options.add_argument("--judge-model", default="", metavar="NAME", help="as the server calls it")
    options.add_argument("--token-env", metavar="VAR", help="the variable that holds the server's token")
    options.add_argument(
        "--timeout", type=count, default=120, metavar="S", help="seconds for a question, its retries included (120)"
    )
    options.add_argument("--retries", type=count, default=3, metavar="N", help="further requests after a failure (3)")
    options.add_argument("--concurrency", type=count, default=8, metavar="N", help="requests at a time (8)")
    options.add_argument("--no-images", action="store_true", help="send the judge no images")
    options.add_argument(
        "--skip-failed", action="store_true", help="leave out what the judge did not answer, instead of writing nothing"
    )


def judge_of(given: argparse.Namespace) -> "Judge":
    """The client that those options ask for."""
    parts = urlsplit(given.judge)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        mend = "http://HOST:PORT/v1/chat/completions"
        raise UserError(f"is no address: {given.judge[:200]!r}", where="--judge", mend=mend)
    if given.token_env and not os.environ.get(given.token_env):
        raise UserError(f"the environment has no {given.token_env}", where="--token-env", mend="export it first")
    from hpt_megatron.rewards.judge import Judge, JudgeSettings

    return Judge(
        JudgeSettings(
            url=given.judge,
            model=given.judge_model,
            token_env=given.token_env,
            seconds=float(given.timeout),
            retries=given.retries,
            concurrency=given.concurrency,
        )
    )


def parser() -> Parser:
    """The verb's own verbs and their options."""
    options = Parser(prog="hpt feedback", description=(__doc__ or "").splitlines()[0])
    verbs = options.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    one = verbs.add_parser("label", help="preference rows from pairs of answers")
    one.add_argument(
        "--principles", choices=("drawn", "each"), default="drawn", help="one by chance for a pair, or all"
    )
    one.add_argument("--pairs", type=count, default=3, metavar="N", help="at most, of a row with more than two answers")
    one.add_argument(
        "--debate", type=count, metavar="N", help="rounds in which an advocate for each answer argues before the judge"
    )
    two = verbs.add_parser("revise", help="demonstrations from answers that are criticised and revised")
    two.add_argument(
        "--rounds", type=count, default=1, metavar="N", help="of critique and revision, each by a principle"
    )
    for each in (one, two):
        each.add_argument("source", metavar="IN", help=".parquet, .jsonl or .json")
        each.add_argument("out", metavar="OUT", help="the .parquet or .jsonl file to write")
        each.add_argument(
            "--constitution", default="default", metavar="C", help="the name of one that ships, or a file of YAML"
        )
        each.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (0)")
        each.add_argument("--image-root", metavar="DIR", help="where relative paths start (default: the file's folder)")
        each.add_argument("--dry-run", action="store_true", help="print the first request, and ask nobody")
        each.add_argument("--json", action="store_true", help="print one JSON object")
        takes_judge(each, required=True)
    return options


def run(arguments: list[str]) -> int:
    """Runs one of them."""
    given = parser().parse_args(arguments)

    from hpt_megatron.data.files import check_output, write_rows
    from hpt_megatron.feedback.asking import Asking, beside
    from hpt_megatron.feedback.cases import read_cases
    from hpt_megatron.feedback.constitution import read_constitution

    check_output(given.out, given.source)
    if not given.out.endswith((".parquet", ".jsonl")):
        raise UserError("ends neither with .parquet nor with .jsonl", where=given.out)
    read_constitution(given.constitution)  # what is wrong with it is said before anything is asked
    cases = read_cases(given.source, 2 if given.verb == "label" else 0, given.image_root)
    judge = judge_of(given)
    try:
        asking = Asking(judge, None if given.dry_run else beside(given.out))
        made = (label if given.verb == "label" else revise)(given, cases, asking)
        if made is None:
            return 0
        if not made.rows:
            what = f"no row came of it: {json.dumps(made.counts)[:400]}"
            raise UserError(what, where=given.out, mend="nothing was written")
        write_rows(given.out, made.rows)
        asking.forget()
        show(given, cases, made, asking)
        return 0
    finally:
        judge.close()


def label(given: argparse.Namespace, cases: "Cases", asking: "Asking") -> "Labelled | None":
    """Judges pairs; None where a request was only to be shown."""
    from hpt_megatron.feedback.constitution import read_constitution
    from hpt_megatron.feedback.label import Labels, first_request, pairs_of
    from hpt_megatron.feedback.label import label as labelled

    principles = read_constitution(given.constitution)
    how = Labels(
        principles=0 if given.principles == "each" else 1,
        pairs=given.pairs,
        rounds=given.debate or 0,
        seed=given.seed,
        images=not given.no_images,
        skip_failed=given.skip_failed,
    )
    pairs = pairs_of(cases.held, how)
    if given.dry_run:
        preview(given, first_request(pairs[0], principles, how, asking))
        return None
    return labelled(pairs, principles, how, asking)


def revise(given: argparse.Namespace, cases: "Cases", asking: "Asking") -> "Labelled | None":
    """Criticises and revises; None where a request was only to be shown."""
    from hpt_megatron.feedback.constitution import read_constitution
    from hpt_megatron.feedback.revise import Revisions, first_request
    from hpt_megatron.feedback.revise import revise as revised

    principles = read_constitution(given.constitution)
    how = Revisions(rounds=given.rounds, seed=given.seed, images=not given.no_images, skip_failed=given.skip_failed)
    if given.dry_run:
        preview(given, first_request(cases.held[0], principles, how, asking))
        return None
    return revised(cases.held, principles, how, asking)


def preview(given: argparse.Namespace, request: dict[str, Any]) -> None:
    """Prints a request, its images cut short."""
    for message in request["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                url = part["image_url"]["url"]
                part["image_url"] = {"url": f"{url[:40]}... ({len(url):,} characters)"}
    print(json.dumps({"url": given.judge, "body": request}, indent=2))


def show(given: argparse.Namespace, cases: "Cases", made: "Labelled", asking: "Asking") -> None:
    """Says what was written, and what was left out."""
    unusable = [f"{problem.where}: {problem.what}" for problem in cases.problems]
    told = {"file": given.out, "rows": len(made.rows), "counts": made.counts, "unusable": unusable}
    if given.json:
        print(json.dumps({**told, "judge": asking.metrics()}, indent=2))
        return
    for line in unusable[:SHOWN]:
        print(f"left out: {short(line)}")
    if len(unusable) > SHOWN:
        print(f"... and {len(unusable) - SHOWN} more; --json shows all")
    for name, number in made.counts.items():
        if isinstance(number, int):
            print(f"{name:<20} {number:,}")
    for name, own in made.counts.get("by_principle", {}).items():
        print(f"  {name:<18} " + ", ".join(f"{key} {value:,}" for key, value in own.items()))
    if any(bias := made.counts.get("position", {}).values()):
        first, second = bias
        print(f"{'same place twice':<20} the first {first:,}, the second {second:,}")
    if given_labels := made.counts.get("agrees_with_given"):
        print(f"{'as given in IN':<20} {given_labels['share']:.1%} of {given_labels['of']:,}")
    metrics = asking.metrics()
    print(f"{'requests':<20} {metrics['requests']:,.0f}, {metrics['retries']:,.0f} of them retries", end="")
    print(f", {asking.taken:,} replies of an earlier try" if asking.taken else "")
    print(f"{'wrote':<20} {short(given.out)}, {len(made.rows):,} rows")
