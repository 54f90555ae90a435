"""`hpt job begin|run|end`: what the script of a submitted job calls on its nodes; nobody types it.

begin      a new attempt; prints its folder (`HPT_JOB` names the job)
run        on every node, from its health to the end of the run (`HPT_ATTEMPT` names the attempt)
end CODE   judges the attempt; prints what the script does next
"""

import os
import sys
from pathlib import Path

from hpt_megatron.errors import UserError

ACTIONS = ("begin", "run", "end")


def run(arguments: list[str]) -> int:
    """One of the three."""
    if not arguments or arguments[0] not in ACTIONS or "HPT_JOB" not in os.environ:
        if arguments[:1] in (["-h"], ["--help"]):
            print(__doc__)
            return 0
        raise UserError("is called by the script of a job alone", where="hpt job", mend="`hpt submit` makes one")

    from hpt_megatron.cluster import attempt
    from hpt_megatron.cluster.job import read_job

    job = read_job(Path(os.environ["HPT_JOB"]))
    if arguments[0] == "begin":
        print(attempt.begin(job, os.environ))
        return 0
    folder = Path(os.environ["HPT_ATTEMPT"])
    if arguments[0] == "run":
        from hpt_megatron.cluster.node import Node

        return Node(job, folder, os.environ).run()
    verdict = attempt.end(job, folder, int(arguments[1]))
    then = "SLURM starts it again" if verdict.again else f"the job ends with {verdict.code}"
    print(f"[attempt] {verdict.why}; {then}", file=sys.stderr)
    print(verdict)
    return 0
