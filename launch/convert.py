"""The same as `hpt convert`, from a checkout: `python launch/convert.py import HF_DIR OUT`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt_megatron.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["convert", *sys.argv[1:]]))
