"""What the tests of the agent share: a corpus of pages, a model that says what a script says, and a kit around them.

The scripted model plays the policy alone; tokenizer, tools, search, drivers are the real ones.
"""

import contextlib
import json
import random
import threading
import time
from concurrent.futures import Future

from PIL import Image

from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.record import Message, Record, Source
from hpt_megatron.rollout.agent.episode import Kit
from hpt_megatron.rollout.agent.machine import Rules
from hpt_megatron.rollout.agent.modes import mode_of
from hpt_megatron.rollout.agent.views import Viewer
from hpt_megatron.rollout.engine.role import Sampled, Sampling
from hpt_megatron.rollout.search.client import SearchClient
from hpt_megatron.rollout.search.settings import Retriever
from hpt_megatron.rollout.tools import bbox, calculator, search  # noqa: F401
from hpt_megatron.rollout.tools.tool import TOOLS, Equipment

KEYS = tuple(f"k{number:02d}" for number in range(8))
SAMPLING = Sampling(max_tokens=64)
SMALL = PictureRules(min_pixels=56 * 56, max_pixels=56 * 56)


def write_corpus(folder, size=(56, 56), keys=KEYS):
    """A page for each key, in a deck of its own colour; the text says which key."""
    lines = []
    for i, key in enumerate(keys):
        path = folder / "deck" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i * 20, 100, 200)).save(path)
        lines.append({"id": f"deck/{key}", "image": f"deck/{key}.png", "text": f"page {key} value {i}"})
    (folder / "pages.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def lookup(key, **more):
    return Record(index=key, prompt=(Message("user", f"value {key} ?"),), reference=(f"deck/{key}",), **more)


def pixels(image):
    """A source that holds an image."""
    import io

    file = io.BytesIO()
    image.save(file, format="PNG")
    return Source(data=file.getvalue())


class Scripted:
    """An engine that says `script(uid, sample, turn, seed)`: a text, ids, or an exception; ends with an end of turn.

    `slow`: answers come in a random order, from threads.
    """

    version = "5"
    forbidden = (3, 4)

    def __init__(self, chat, script, slow=False):
        self.chat, self.script, self.slow = chat, script, slow
        self.asked = []
        self.held_back = []  # requests made inside each `held`
        self._turns = {}

    @contextlib.contextmanager
    def held(self):
        before = len(self.asked)
        yield
        self.held_back.append(len(self.asked) - before)

    def submit(self, prompt, sampling, key=""):
        uid, _, sample = key.rpartition("/")
        turn = prompt.ids.count(self.chat.marks.im_start) // 2
        self.asked.append((key, prompt, sampling))
        future = Future()

        def answer():
            if self.slow:
                time.sleep(random.random() / 50)
            said = self.script(uid, int(sample), turn, sampling.seed)
            if not future.set_running_or_notify_cancel():
                return
            if isinstance(said, Exception):
                future.set_exception(said)
            else:
                future.set_result([said if isinstance(said, Sampled) else self.sampled(said, sampling.max_tokens)])

        threading.Thread(target=answer).start() if self.slow else answer()
        return future

    def sampled(self, said, max_tokens=10_000):
        ids = [*self.chat.ids(said), self.chat.marks.im_end] if isinstance(said, str) else list(said)
        finish = "stop" if len(ids) <= max_tokens else "length"
        ids = ids[:max_tokens]
        return Sampled(tuple(ids), tuple(-(i % 7) / 10 - 0.1 for i in ids), (self.version,) * len(ids), finish)


def turns(*texts):
    """A script: the n-th text in the n-th turn."""
    return lambda uid, sample, turn, seed: texts[turn - 1]


def kit_of(chat, engine, client=None, mode="vrag", tools=(), viewer=None, more=None, **rules):
    """The real parts around a scripted engine; `more` are fields of the kit."""
    chosen = mode_of(mode, tools)
    viewer = viewer or Viewer(SMALL)
    equipment = Equipment(viewer, client)
    named = {name: TOOLS.get(name)(equipment) for name in chosen.actions if name != chosen.ending}
    settings = {"actions": chosen.actions, "ending": chosen.ending, "max_new_tokens_per_turn": 64, **rules}
    return Kit(engine, chat, viewer, chosen, Rules(**settings), named, **(more or {}))


def inproc(folder, **more):
    return SearchClient(Retriever(protocol="inproc", corpus_root=str(folder), batch_wait_ms=1, **more))
