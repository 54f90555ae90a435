"""A real HTTP server on this host that plays the judge: `reply(talk)` gives a text, or a status to fail with."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARGUED = re.compile(r"\[argument for ([AB]) (\w+) begins\]\n(.*?)\n\[argument for \1 \2 ends\]", re.DOTALL)
SHOWN = re.compile(r"\[answer ([AB]) (\w+) begins\]\n(.*?)\n\[answer \1 \2 ends\]", re.DOTALL)


class Talk:
    """One request: who is asked what."""

    def __init__(self, body, token):
        self.body, self.token = body, token
        self.system = body["messages"][0]["content"]
        content = body["messages"][-1]["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        self.text = "".join(part["text"] for part in parts if part["type"] == "text")
        self.images = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        self.principle = self.text.partition("Principle:\n")[2].partition("\n\n")[0]
        self.answers = {name: text.strip() for name, _, text in SHOWN.findall(self.text)}
        self.arguments = [(name, text.strip()) for name, _, text in ARGUED.findall(self.text)]
        self.kind = next((kind for kind in ("compare", "criticise", "revise", "argue") if kind in self.system), "draft")


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        talk = Talk(body, self.headers.get("Authorization"))
        with self.server.lock:
            self.server.talks.append(talk)
            said = self.server.reply(talk)
        status, content = (said, "no") if isinstance(said, int) else (200, said)
        sent = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(sent)

    def log_message(self, *_):
        pass


class JudgeServer(ThreadingHTTPServer):
    """`talks` are all requests in their order."""

    daemon_threads = True

    def __init__(self, reply):
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.talks, self.lock = reply, [], threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1/chat/completions"
        self.options = ["--judge", self.url, "--judge-model", "judge-1", "--retries", "1"]


@contextlib.contextmanager
def judging(reply):
    server = JudgeServer(reply)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def prefers(better):
    """A judge that names the answer for which `better` is larger, wherever it stands; a tie where both are equal."""

    def reply(talk):
        a, b = (better(talk.answers[name]) for name in "AB")
        return f"Because. <judge>{'tie' if a == b else 'A' if a > b else 'B'}</judge>"

    return reply
