"""Serves a corpus of pages: `python launch/search_server.py CORPUS_DIR [--port 8002]`; see docs/agent.md."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt_megatron.cli.arguments import Parser
from hpt_megatron.errors import HptError
from hpt_megatron.search.service import bound, open_service, serve


def main() -> int:
    """Builds or opens the index, then serves until it is interrupted."""
    parser = Parser(prog="search_server.py", description=__doc__)
    parser.add_argument("corpus", help="folder with pages.jsonl, as `hpt data corpus` makes it")
    parser.add_argument("--host", default="127.0.0.1", help="other hosts can reach it only if this says so")
    parser.add_argument("--port", type=port_of, default=8002, help="0: a free one (default: 8002)")
    parser.add_argument("--encoder", help="address of an /embeddings service; pages are then found by vectors")
    parser.add_argument("--model", default="", help="name of the encoder's model")
    start = time.monotonic()
    try:
        given = parser.parse_args()
        service = open_service(given.corpus, given.encoder, given.model)
        listening = bound(given.host, given.port)
    except HptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    pages, seconds = len(service.corpus.pages), time.monotonic() - start
    host, port = f"[{given.host}]" if ":" in given.host else given.host, listening.getsockname()[1]
    print(f"{pages} pages, ready in {seconds:.1f} s: http://{host}:{port}/search", flush=True)
    serve(service, listening)
    return 0


def port_of(text: str) -> int:
    """A number that a port can have."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) < 1 << 16):
        raise argparse.ArgumentTypeError(f"a port is 0 to 65535, not {text[:40]!r}")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
