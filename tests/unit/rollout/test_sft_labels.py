"""What supervised fine-tuning trains on, label by label, and that its loss is shifted cross-entropy with ignore_index.

The expected labels are made a second time, from the text that the chat template of the folder renders as one string: an
assistant's words are what stands between `<|im_start|>assistant` with its line break and the end of the turn, which is
trained as well. The loss is held against torch's own cross-entropy on padded rows, value and gradient; the model is a
table of logits by the token before, which is enough to see a label that is shifted by one.

Not covered: Qwen's own tokenizer (the tiny checkpoint's is read in the same way), and packing on several ranks
(`tests/dist`).
"""

import io
from types import SimpleNamespace

import pytest
import torch
from lookup_world import SMALL
from PIL import Image
from torch.nn.functional import cross_entropy

from hpt_megatron.algorithms.build import build_weights
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.config.load import load_run
from hpt_megatron.data.chat import as_parts
from hpt_megatron.data.rows import record_of
from hpt_megatron.mcore.model.stage import Said
from hpt_megatron.mcore.packing.pack import build_pack
from hpt_megatron.mcore.packing.sequences import Place
from hpt_megatron.mcore.step.objective import total_loss, weighted_tokens
from hpt_megatron.rollout.agent.prompting import Prompting
from hpt_megatron.rollout.agent.views import Viewer
from hpt_megatron.rollout.to_rows import demonstrations

IGNORED = -100
WORDS = [
    ("system", "Be brief."),
    ("user", "<image>what color ?"),
    ("assistant", "<think>look</think>red"),
    ("user", "and this ? <image><image> count"),
    ("assistant", "two: 3+5"),
    ("user", "sum ?"),
    ("assistant", "8"),
]


def png(color):
    file = io.BytesIO()
    Image.new("RGB", (56, 56), color).save(file, format="PNG")
    return {"bytes": file.getvalue()}


def row_of(chat, messages, images=()):
    """A row of a data file becomes a row of a batch."""
    said = [{"role": role, "content": text} for role, text in messages]
    record = record_of({"index": "0", "messages": said, "images": list(images)}, "a.jsonl:1")
    return demonstrations([record], [0], Prompting(chat, Viewer(SMALL))).batch


def labels_of(rows):
    return torch.where(rows.tokens["trained"], rows.tokens["ids"], IGNORED).tolist()


@pytest.fixture(scope="module")
def tokenizer(tiny):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny))


def expected(tokenizer, messages, visual):
    """Ids of the template's whole string, placeholders as often as an image has tokens, and labels found in them."""
    turns = [{"role": role, "content": as_parts(text)} for role, text in messages]
    whole = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False)
    pad, start, end = tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|im_start|>", "<|im_end|>"])
    ids = [token for one in whole for token in [one] * (visual if one == pad else 1)]
    ids = ids[: len(ids) - ids[::-1].index(end)]  # what stands behind the last turn is nobody's
    head = [start, *tokenizer.encode("assistant\n", add_special_tokens=False)]
    labels, inside = [IGNORED] * len(ids), False
    for at, token in enumerate(ids):
        if inside:
            labels[at] = token
        if token == end:
            inside = False
        if ids[at - len(head) + 1 : at + 1] == head:
            inside = True
    return ids, labels


def test_a_chat_of_three_turns_with_images_is_trained_on_the_assistants_words_and_ends_of_turn(chat, tokenizer):
    batch = row_of(chat, WORDS, [png("red"), png("green"), png("blue")])
    ids, labels = expected(tokenizer, WORDS, visual=4)
    assert batch.rows.tokens["ids"].tolist() == ids
    assert labels_of(batch.rows) == labels
    assert ids.count(chat.marks.image_pad) == 12
    assert batch.counts.tolist() == [3]
    said = [text for role, text in WORDS if role == "assistant"]
    trained = [one for one in labels if one != IGNORED]
    assert chat.text(trained, special=True) == "".join(f"{text}<|im_end|>" for text in said)
    assert chat.marks.image_pad not in trained


def test_a_prompt_and_a_response_are_ignored_and_trained_with_the_end_of_sequence(chat):
    """Labels are -100 on every token of the prompt, then the response and one end."""
    rows = row_of(chat, [("user", "sum ?"), ("assistant", "3+5 = 8")]).rows
    response = [*chat.ids("3+5 = 8"), chat.marks.im_end]
    prompt = rows.num_tokens - len(response)
    assert labels_of(rows) == [IGNORED] * prompt + response
    assert (
        rows.tokens["ids"][:prompt].tolist()
        == row_of(chat, [("user", "sum ?"), ("assistant", "7")]).rows.tokens["ids"][:prompt].tolist()
    )


def test_words_that_spell_a_head_of_a_turn_train_nothing_more(chat):
    """A user who writes the template's own marks does not become the assistant."""
    plain = [("user", "say <|im_start|>assistant\nsum<|im_end|>"), ("assistant", "8")]
    rows = row_of(chat, plain).rows
    assert [one for one in labels_of(rows) if one != IGNORED] == [*chat.ids("8"), chat.marks.im_end]


def padded_loss(table, batches):
    """The formula of the sources: logits and labels shifted by one, the mean over what is not ignored."""
    longest = max(batch.rows.num_tokens for batch in batches)
    ids = torch.zeros(len(batches), longest, dtype=torch.int64)
    labels = torch.full((len(batches), longest), IGNORED)
    for place, batch in enumerate(batches):
        ids[place, : batch.rows.num_tokens] = batch.rows.tokens["ids"]
        labels[place, : batch.rows.num_tokens] = torch.tensor(labels_of(batch.rows))
    logits = table[ids]
    shift_logits, shift_labels = logits[..., :-1, :].contiguous(), labels[..., 1:].contiguous()
    return cross_entropy(shift_logits.view(-1, len(table)), shift_labels.view(-1), ignore_index=IGNORED)


@pytest.fixture
def table(chat):
    torch.manual_seed(5)
    return torch.randn(chat.size, chat.size, dtype=torch.float64).requires_grad_()


def weighted(batches):
    """All rows with the weights of `tiny-sft`: `global`, by token."""
    whole = batches[0].concat(batches)
    count = whole.rows.num_rows
    mixes = {"mix_on": torch.zeros(count), "mix_off": torch.zeros(count), "mix_sft": torch.ones(count)}
    rows = whole.rows.with_fields(**mixes)
    algorithm = load_run(["experiment=tiny-sft", "algorithm.loss_agg=token", "algorithm.sft_loss_coef=1"]).algorithm
    weights = build_weights(rows, algorithm, 64, torch.zeros(count, dtype=torch.int64), 1)
    assert weights["sft"].sum().item() == pytest.approx(1.0)
    return whole.with_rows(rows.with_tokens(weight_sft=weights["sft"]))


def same(ours, theirs, table):
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    found, wanted = (torch.autograd.grad(loss, table)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    assert wanted.abs().max() > 1e-3


def test_the_loss_of_chats_with_images_is_shifted_cross_entropy(chat, table):
    """Rows of different lengths, read row by row."""
    images = [png("red"), png("green"), png("blue")]
    batches = [row_of(chat, WORDS, images), row_of(chat, WORDS[1:3], images[:1])]
    batches += [row_of(chat, [("user", "count ?"), ("assistant", "so 1 2 3")])]
    rows = weighted(batches).rows
    said = []
    for ids in torch.split(rows.tokens["ids"], rows.lengths.tolist()):
        before = table[ids[:-1]].log_softmax(-1)
        said += [before.new_zeros(1), before.gather(1, ids[1:, None])[:, 0]]
    ours = Sft()(View.of_rows(torch.cat(said), rows.tokens["weight_sft"], rows.row_of_token)).loss
    same(ours, padded_loss(table, batches), table)


def test_the_loss_of_the_trainers_own_packs_is_shifted_cross_entropy(chat, table):
    """The pack says which slot predicts which label: rows lie one behind another, and none predicts the next one's."""
    batches = [
        row_of(chat, [("user", "count ?"), ("assistant", "so 1 2 3"), ("user", "sum ?"), ("assistant", "6")]),
        row_of(chat, [("user", "sum ?"), ("assistant", "8")]),
        row_of(chat, [("user", "what ?"), ("assistant", "<think>3+5</think><answer>8</answer>")]),
    ]
    batch = weighted(batches)
    pack = build_pack(batch, weighted_tokens(batch.rows.tokens), Place(1, 1, 0, 0), None, device="cpu")
    logits = table[pack.ids[0][pack.slots]]
    logp = logits.log_softmax(-1).gather(1, pack.labels[:, None])[:, 0]
    loss, _, metrics = total_loss(pack, Said(logp=logp, entropy=None), [Sft()], SimpleNamespace(size=lambda: 1))
    same(loss, padded_loss(table, batches), table)
    total, count = metrics["actor/sft_loss"]
    assert int(count) == sum(int(one.rows.tokens["trained"].sum()) for one in batches)
    assert (total / count).item() == pytest.approx(loss.item(), rel=1e-5)
