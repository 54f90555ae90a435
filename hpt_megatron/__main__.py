"""`python -m hpt_megatron` is the command `hpt`."""

import sys

from hpt_megatron.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
