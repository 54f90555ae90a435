"""`hpt distill-success RUN OUT`: a supervised set of what a run got right, to be trained on by `hpt sft`.

RUN is the folder of a run, or of an evaluation (then --min-score says what is right). Of each prompt the answers with
the highest reward come first, of those the shortest; with --first shortest it is the other way round.

Example:
    $ hpt distill-success runs/tiny-hpt won.parquet --per-prompt 2 --steps 20:40
    $ hpt sft data.train_files=[won.parquet] trainer.run_dir=runs/distilled
"""

import json
from pathlib import Path

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.cli.data import count, short
from hpt_megatron.cli.human_eval import chosen_purpose, number, takes_responses
from hpt_megatron.errors import UserError


def parser() -> Parser:
    """The options of the verb."""
    options = Parser(prog="hpt distill-success", description=(__doc__ or "").splitlines()[0])
    options.add_argument("run", type=Path, metavar="RUN", help="the folder of a run or of an evaluation")
    options.add_argument("out", metavar="OUT", help="the .parquet or .jsonl file to write")
    options.add_argument("--per-prompt", type=count, default=1, metavar="N", help="different answers of a prompt (1)")
    options.add_argument(
        "--min-score", type=number, metavar="X", help="only what scores as much, beside the run's rule"
    )
    options.add_argument("--first", choices=("highest", "shortest"), default="highest", help="reward, or tokens")
    takes_responses(options)
    options.add_argument("--json", action="store_true", help="print one JSON object")
    return options


def run(arguments: list[str]) -> int:
    """Writes the set."""
    given = parser().parse_args(arguments)

    from hpt_megatron.data.files import check_output, write_rows
    from hpt_megatron.feedback.distill import Kept, distilled
    from hpt_megatron.feedback.written import find, records_of

    found = find(given.run)
    purpose = chosen_purpose(given, found.purposes(), "train")
    records = records_of(found, purpose, given.data, given.image_root)
    check_output(given.out, *(given.data or found.data_files(purpose)))
    how = Kept(per_prompt=given.per_prompt, least=given.min_score, steps=given.steps, first=given.first)
    made = distilled(found, purpose, records, how)
    if not made.rows:
        told = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in made.counts.items() if number)
        raise UserError(f"no response is kept ({told})", where=str(given.run), mend="nothing was written")
    write_rows(given.out, made.rows)
    if given.json:
        print(json.dumps({"file": given.out, "purpose": purpose, "counts": made.counts}, indent=2))
        return 0
    for name, value in made.counts.items():
        if value:
            print(f"{name.replace('_', ' '):<18} {value:,}")
    print(f"{'wrote':<18} {short(given.out)}")
    return 0
