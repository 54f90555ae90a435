"""A run's folder without a run: configuration, data and rollouts as the product writes them; and an evaluation, of
which the model alone is a script."""

import json
import threading
from concurrent.futures import Future

from hpt_megatron.config.load import load_run
from hpt_megatron.data.files import rows
from hpt_megatron.data.rows import record_of
from hpt_megatron.data.tasks.make import make
from hpt_megatron.data.tasks.place import task_folder
from hpt_megatron.observe.record import write_record
from hpt_megatron.recipes.evaluate import measured
from hpt_megatron.rollout.engine.role import Sampled
from hpt_megatron.rollout.trajectory import Builder, TurnNote
from hpt_megatron.rollout.trajectory_file import append

PROMPTS, SAMPLES = 8, 4


def said(uid, sample, text, *, tokens=5, finish="stop", prefix=(), turns=1):
    """A trajectory of so many equal turns."""
    builder = Builder(uid, sample)
    builder.prompt([1, 2, 3])
    builder.prefix(list(prefix))
    for turn in range(turns):
        builder.turn([9] * tokens, [-0.5] * tokens, ["3"] * tokens)
        builder.notes.append(TurnNote(text, "", num_tokens=tokens))
        if turn + 1 < turns:
            builder.observe([8])
    return builder.freeze(finish)


def write(folder, purpose, step, *told):
    """Trajectories with their score into a step's file; `told` are pairs of them."""
    scores = {
        (one.uid, one.sample): {"accuracy": float(score >= 1), "score": score, "total": score} for one, score in told
    }
    append(folder / "rollouts" / f"{purpose}_{step}.jsonl", [one for one, _ in told], scores, step)


def records(folder, part="train"):
    """The prompts of the run's own task."""
    path = task_folder(folder, "count") / f"{part}.parquet"
    return [record_of(row, where, path.parent) for where, row in rows(path)]


def write_run(folder):
    """Two validations and no training yet: the later one is right more often."""
    run = load_run([f"trainer.run_dir={folder}"])
    assert run.data.make == "count"
    write_record(run, folder)
    make("count", task_folder(folder, "count"), count=PROMPTS, val_count=PROMPTS, seed=0)
    for step, right in ((10, 1), (20, 3)):
        for record in records(folder, "val"):
            each = []
            for sample in range(SAMPLES):
                good = sample < right
                text = f"<answer>{record.golds[0] if good else 'none'}</answer> of sample {sample}"
                each.append((said(record.index, sample, text), float(good)))
            write(folder, "validate", step, *each)
    return folder


class Scripted:
    """An engine that says what a script says of a prompt's index and the sample."""

    version, forbidden = "0", ()

    def __init__(self, chat, script):
        self.chat, self.script = chat, script

    def submit(self, prompt, sampling, key=""):
        uid, _, sample = key.rpartition("/")
        ids = [*self.chat.ids(self.script(uid, int(sample))), self.chat.marks.im_end]
        future = Future()
        done = Sampled(tuple(ids), (-0.1,) * len(ids), ("0",) * len(ids), "stop")
        threading.Thread(target=future.set_result, args=([done],)).start()
        return future

    def healthy(self):
        return True


def write_evaluation(tiny, chat, data, out, script, samples=2):
    """What `hpt eval` writes, of a model that is a script."""
    run = load_run(
        [
            f"model.path={json.dumps(str(tiny))}",
            f"data.val_files=[{json.dumps(str(data))}]",
            f"rollout.n_val={samples}",
            "rollout.val_temperature=1.0",
        ]
    )
    found = [record_of(row, where, data.parent) for where, row in rows(data)]
    measured(run, Scripted(chat, script), found, out, [1])
    return out
