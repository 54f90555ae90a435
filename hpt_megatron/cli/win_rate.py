"""`hpt win-rate A B`: how often the responses of A beat those of B at the same prompts, by score or by a judge.

A and B are folders of `hpt eval`, folders of runs (their last validation, or --step-a and --step-b), or files of
rollouts.

Example:
    $ hpt win-rate runs/a/eval_60 runs/a/eval_20
    $ hpt win-rate runs/a runs/a --step-b 20 --judge http://127.0.0.1:8000/v1/chat/completions --judge-model M
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.data import count, short
from hpt_megatron.cli.feedback import judge_of, preview, takes_judge
from hpt_megatron.cli.human_eval import between, takes_prompts
from hpt_megatron.cli.tiny import seed
from hpt_megatron.errors import UserError

if TYPE_CHECKING:
    from hpt_megatron.data.record import Record
    from hpt_megatron.feedback.win_rate import Duel, Outcome
    from hpt_megatron.feedback.written import Written


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt win-rate", description=(__doc__ or "").splitlines()[0])
    options.add_argument("a", type=Path, metavar="A", help="an evaluation, a run, or a file of rollouts")
    options.add_argument("b", type=Path, metavar="B", help="what it is compared with")
    options.add_argument("--step-a", type=int, metavar="N", help="of a run: this validation (default: the last)")
    options.add_argument("--step-b", type=int, metavar="N", help="the same of B")
    options.add_argument("--purpose", choices=("train", "validate"), default="validate", help="(validate)")
    options.add_argument("--n", type=count, metavar="N", help="with a judge: so many prompts by chance (default: all)")
    options.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (0)")
    options.add_argument("--out", type=Path, metavar="FILE", help="write the result there as JSON")
    options.add_argument("--json", action="store_true", help="print what that file holds")
    options.add_argument("--dry-run", action="store_true", help="with a judge: print the first request, and ask nobody")
    takes_judge(options, required=False)
    takes_prompts(options)
    return options


def run(arguments: list[str]) -> int:
    """Compares, prints, and writes."""
    given = parser().parse_args(arguments)
    if given.dry_run and not given.judge:
        raise UserError("there is nobody to ask", where="--dry-run", mend="give --judge URL")
    if given.out and given.out.exists() and not _is_result(given.out):
        raise UserError("is there and is no result of hpt win-rate", where=str(given.out), mend="another --out")

    from hpt_megatron.feedback.win_rate import by_score, check_same, duels, scored, step_of, told
    from hpt_megatron.feedback.written import find, records_of

    sides = [find(given.a), find(given.b)]
    steps = [step_of(*each) for each in zip(sides, [given.purpose] * 2, [given.step_a, given.step_b], strict=True)]
    found = [scored(side, given.purpose, step) for side, step in zip(sides, steps, strict=True)]
    told_of = [known_prompts(given, side) for side in sides]
    records = told_of[0] or told_of[1]
    if given.judge and not records:
        records = records_of(sides[0], given.purpose, given.data, given.image_root)  # which says what is missing
    pairs = duels(found[0], found[1], {uid: record.data_source for uid, record in records.items()})
    check_same(pairs, *told_of)
    result: dict[str, Any] = {
        "a": {"path": str(given.a), "step": steps[0]},
        "b": {"path": str(given.b), "step": steps[1]},
        "by": f"judge {given.judge_model or given.judge}" if given.judge else "score",
        "only_in_a": len(found[0]) - len(pairs),
        "only_in_b": len(found[1]) - len(pairs),
    }
    if given.judge:
        judged = ask(given, pairs, records)
        if judged is None:
            return 0
        outcomes, more = judged
        result |= {"judge": more}
    else:
        outcomes = by_score(pairs)
    result["figures"] = told(outcomes)
    if given.out:
        write(given.out, result)
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        show(result, given.out)
    return 0


def known_prompts(given: argparse.Namespace, side: "Written") -> "dict[str, Record]":
    """The prompts of a side; none where its data files are gone: scores are compared without, by no data source."""
    from hpt_megatron.feedback.written import records_of

    try:
        return records_of(side, given.purpose, given.data, given.image_root)
    except UserError:
        if given.data:
            raise
        return {}


def ask(
    given: argparse.Namespace, pairs: "list[Duel]", records: "dict[str, Record]"
) -> "tuple[list[Outcome], dict[str, Any]] | None":
    """What a judge says; None where a request was only to be shown."""
    from hpt_megatron.feedback.asking import Asking, beside
    from hpt_megatron.feedback.compare import question
    from hpt_megatron.feedback.win_rate import Judged, by_judge

    how = Judged(most=given.n, seed=given.seed, images=not given.no_images, skip_failed=given.skip_failed)
    judge = judge_of(given)
    try:
        asking = Asking(judge, beside(given.out) if given.out and not given.dry_run else None)
        if given.dry_run:
            duel = next((one for one in pairs if one.uid in records), None)
            if duel is None:
                raise UserError("none of the prompts is in the data files", where="A and B", mend="--data FILE")
            talk = question(records[duel.uid], how.principle, duel.one[0].text, duel.other[0].text, how.images)
            preview(given, judge.request(talk, given.seed))
            return None
        outcomes, more = by_judge(pairs, records, how, asking)
        asking.forget()
        return outcomes, more | {"requests": asking.metrics()["requests"]}
    finally:
        judge.close()


def write(path: Path, result: dict[str, Any]) -> None:
    """The file, whole or not at all."""
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror}", where=str(path), mend="another --out") from error


def _is_result(path: Path) -> bool:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and {"a", "b", "figures"} <= told.keys()


def show(result: dict[str, Any], out: Path | None) -> None:
    """Prints the table."""
    print(f"A  {short(result['a']['path'])}, step {result['a']['step']}")
    print(f"B  {short(result['b']['path'])}, step {result['b']['step']}, compared by {short(result['by'])}\n")
    print(f"{'data source':<20}{'prompts':>8}{'A wins':>9}{'ties':>9}{'B wins':>9}{'win rate of A':>26}")
    for source, one in result["figures"].items():
        shares = "".join(f"{one[name]:>9.1%}" for name in ("wins", "ties", "losses"))
        rate = between({"value": one["win_rate"], "interval": one["interval"]})
        print(f"{short(source):<20}{one['prompts']:>8,}{shares}{rate:>26}")
    print("\nin brackets: 95 % over prompts; 0.5 is where neither is better", end="")
    alone = result["only_in_a"] + result["only_in_b"]
    print(f"; {alone:,} prompts are in one of them only" if alone else "")
    if more := result.get("judge"):
        print(
            f"of {more['asked']:,} prompts the judge contradicted itself at {more['split']:,}, was unclear at", end=" "
        )
        print(f"{more['unclear']:,}")
    if out:
        print(f"wrote {short(str(out))}")
