"""The same as `hpt submit`, from a checkout: `python launch/submit.py experiment=hpt-7b cluster=slurm`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt_megatron.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["submit", *sys.argv[1:]]))
