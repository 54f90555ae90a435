"""The trainer gives sampled tokens the log-probabilities that the engine gave them: text, an image, several turns.

Real vLLM samples from the tiny model; real Megatron at tp 2 scores the same ids under the same temperature and mask, on
patches made from the very images that the engine was given. Not covered: bf16, whose gap between the two is what the
corrections of the algorithms are for.
"""

from dataclasses import dataclass, field

import pytest

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules, grid, patches, tokens
from hpt_megatron.data.record import Message
from hpt_megatron.rollout.engine.forbidden import forbidden_ids
from hpt_megatron.rollout.engine.role import Prompt, Sampling
from hpt_megatron.rollout.trajectory import collapsed

pytestmark = pytest.mark.slow
SAMPLES, NEW_TOKENS = 3, 10


@dataclass
class Row:
    """Expanded ids, the images in order, and what the engine said of which token."""

    ids: list[int]
    images: list = field(default_factory=list)
    said: dict[int, float] = field(default_factory=dict)

    def add(self, answer):
        self.said |= {len(self.ids) + place: logp for place, logp in enumerate(answer.logp)}
        self.ids += answer.ids


def score(where, run, batch, forbidden):
    """One process of the trainer."""
    from hpt_megatron.mcore.worker import MegatronWorker

    worker = MegatronWorker(run, train=False, forbidden=forbidden)
    worker.start(where)
    parts = worker.split(batch)
    return [
        (part.rows.fields["sample"], part.rows.lengths, said["logp"])
        for part, said in zip(parts, worker.log_probs(parts), strict=True)
    ]


def sampled_rows(engine, chat, rules, first, second):
    """Rollouts of a text, of an image, and a conversation that is shown another image after its first turn."""
    counts = [tokens(grid(*image.size, rules), rules) for image in (first, second)]
    how = Sampling.of_training(engine.run.rollout, n=SAMPLES, max_tokens=NEW_TOKENS, seed=5)
    pad = chat.marks.image_pad

    def turn(ids, images, how=how):
        return engine.generate([Prompt(collapsed(ids, pad), tuple(images))], how)[0]

    text = chat.prompt([Message("user", "count the red dots ?")], [])
    seen = chat.prompt([Message("user", "<image>color ?")], counts[:1])
    rows = []
    for ids, images in ((text, []), (seen, [first])):
        for answer in turn(ids, images):
            rows.append(Row(list(ids), images))
            rows[-1].add(answer)
    one = Sampling.of_training(engine.run.rollout, n=1, max_tokens=NEW_TOKENS, seed=6)
    several = Row(list(seen), [first, second])
    several.add(turn(several.ids, [first], one)[0])
    more, _ = chat.conversation([Message("system", ""), Message("user", "<image>")], counts[1:])
    observation = more[more.index(chat.marks.im_end) + 1 :]  # "\n<|im_start|>user\n...<|im_end|>\n"
    several.ids += [*observation, chat.marks.im_start, *chat.ids("assistant\n")]
    several.add(turn(several.ids, several.images, one)[0])
    return [*rows, several]


def test_the_trainer_gives_sampled_tokens_the_log_probs_of_the_engine(shared_engine, forbidden, folder, picture):
    """Token by token; half of the bytes are masked, so without the mask on both sides nothing would agree."""
    import torch
    from PIL import Image

    from hpt_megatron.mcore.local_processes import run as run_processes
    from hpt_megatron.protocol.batch import Batch, Images
    from hpt_megatron.protocol.rows import Rows

    chat, rules = Chat.open(folder), PictureRules.of_folder(folder)
    other = Image.linear_gradient("L").resize((84, 56)).convert("RGB")
    rows = sampled_rows(shared_engine, chat, rules, picture, other)
    pictures = [picture, other]
    grids = torch.tensor([grid(*image.size, rules) for image in pictures])
    pixels = torch.cat([torch.from_numpy(patches(image, rules)) for image in pictures])
    shown = torch.tensor([pictures.index(image) for row in rows for image in row.images], dtype=torch.int64)
    packed = Rows.from_lists({"ids": [row.ids for row in rows]}, sample=list(range(len(rows))))
    counts = torch.tensor([len(row.images) for row in rows])
    batch = Batch(packed, Images(grids, pixels, torch.zeros(2)), shown, counts)
    scored = {}
    for samples, lengths, logp in run_processes(2, score, shared_engine.run, batch, forbidden)[0]:
        scored |= dict(zip(samples.tolist(), torch.split(logp, lengths.tolist()), strict=True))
    for number, row in enumerate(rows):
        assert [float(scored[number][place]) for place in row.said] == pytest.approx(list(row.said.values()), abs=1e-4)
    assert len(rows[-1].said) > NEW_TOKENS, "two turns"
    assert max(max(row.said.values()) - min(row.said.values()) for row in rows) > 1, "equal tokens would show little"


def test_marks_of_vision_and_rows_without_a_token_are_never_sampled(folder, shared_engine):
    chat = Chat.open(folder)
    never = forbidden_ids(chat, shared_engine.run.model.vocab_size)
    assert {chat.marks.image_pad, chat.marks.vision_start, chat.marks.im_start} < set(never)
    assert never[-1] == shared_engine.run.model.vocab_size - 1 >= chat.size
    assert not chat.ends & set(never)
