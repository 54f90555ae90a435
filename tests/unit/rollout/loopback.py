"""A real HTTP server on loopback whose answers a test writes: slow, wrong, out of order, malicious, or none."""

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


@contextlib.contextmanager
def serving(answer):
    """`answer(method, path, params, body)` gives (status, what): an object for JSON, or bytes; None closes the line."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            size = int(self.headers.get("content-length") or 0)
            data = self.rfile.read(size)
            parts = urlsplit(self.path)
            body = json.loads(data) if data else None
            told = answer(self.command, parts.path, parse_qsl(parts.query, keep_blank_values=True), body)
            if told is None:
                self.close_connection = True
                self.connection.close()
                return
            status, what = told
            out = what if isinstance(what, bytes) else json.dumps(what).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(out)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(out)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def dead_address():
    """An address where nobody listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/search"
