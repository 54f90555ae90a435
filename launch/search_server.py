"""Serves a corpus of pages: `python launch/search_server.py CORPUS_DIR [--port 8002]`; see docs/agent.md."""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hpt_megatron.errors import HptError
from hpt_megatron.search.service import open_service, serve


def main() -> int:
    """Builds or opens the index, then serves until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", help="folder with pages.jsonl, as `hpt data corpus` makes it")
    parser.add_argument("--host", default="127.0.0.1", help="other hosts can reach it only if this says so")
    parser.add_argument("--port", type=int, default=8002)
    parser.add_argument("--encoder", help="address of an /embeddings service; pages are then found by vectors")
    parser.add_argument("--model", default="", help="name of the encoder's model")
    given = parser.parse_args()
    start = time.monotonic()
    try:
        service = open_service(given.corpus, given.encoder, given.model)
    except HptError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    pages, seconds = len(service.corpus.pages), time.monotonic() - start
    print(f"{pages} pages, ready in {seconds:.1f} s: http://{given.host}:{given.port}/search", flush=True)
    serve(service, given.host, given.port)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
