"""GRPO in TRL's words, from a checkout: `python launch/train_grpo.py --quick-test`; see docs/grpo.md."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt_megatron.grpo.command import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
