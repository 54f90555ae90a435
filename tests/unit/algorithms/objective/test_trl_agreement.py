"""SFT, reward-model and preference losses against TRL's trainers: the same token ids, the same weights, the same loss.

Each trainer of TRL is built and its own `compute_loss` is asked, with a batch that its own collator padded. Ours gets
log-probs (or scores) of the same tiny Qwen2, read row by row without padding, and turns them into weights of tokens.
Held to 1e-5: the loss, and its gradient by every parameter of the model, ours being that of sum_t w_t (-log pi_t).

    ours             TRL 1.x                           normalisation, the same in both unless said
    sft              SFTTrainer                        mean over all trained tokens: `global` with loss_agg=token
    dpo              DPOTrainer, sigmoid               sums over the completion; mean over pairs
    dpo, smoothed    experimental CPOTrainer, sigmoid  the same, with a reference that says 0: TRL's DPOTrainer has no
                                                       smoothing but `robust`, which is another loss
    ipo              DPOTrainer, ipo                   TRL divides each log-ratio by its length, ours does not: with
                                                       completions of L tokens beta is L times smaller, loss L^2 larger
    kto              KTOTrainer                        mean over rows; z is the mean log-ratio of mismatched rows
    simpo            experimental CPOTrainer, alpha 0  mean log-prob a token; mean over pairs
    orpo             experimental ORPOTrainer          TRL imitates the chosen row's prompt too, over all tokens of the
                                                       batch: the same where prompts are one token and lengths equal
    bradley_terry    RewardTrainer                     mean over pairs; its `margin` is a pair's margin, its
                                                       `center_rewards_coefficient` is `center`

Not held against TRL: `imitate` (TRL has no trainer for it; it is `sft` over chosen rows, a mean of means) and the
constant margin of `bradley_terry` (TRL has margins of pairs alone). The batches show no images: a loss sees log-probs.
"""

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from hpt_megatron.algorithms.build import build_weights
from hpt_megatron.algorithms.objective.pairwise import PAIRWISE, Pairs, RowSums, pairwise_weights
from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.algorithms.objective.preference import mismatched_drift
from hpt_megatron.algorithms.objective.sft import Sft
from hpt_megatron.config.load import load_run
from hpt_megatron.protocol.rows import Rows

CLOSE = {"rel": 1e-5, "abs": 1e-5}
WORDS = [{"prompt": "count", "chosen": "1", "rejected": "2"}]
PAIRS = 3


@pytest.fixture(scope="module")
def tokenizer(tiny):
    return AutoTokenizer.from_pretrained(str(tiny))


def model_of(tokenizer, seed, kind=Qwen2ForCausalLM):
    """Two layers with weights large enough that the model has opinions."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=1,
        tie_word_embeddings=False,
    )
    return kind(config).float().eval()


@pytest.fixture
def policy(tokenizer):
    return model_of(tokenizer, 1)


@pytest.fixture
def reference(tokenizer):
    return model_of(tokenizer, 2)


def drawn(tokenizer, lengths, seed=0):
    """Rows of ids, none of which is the padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, len(tokenizer) - 1, (length,), generator=generator) for length in lengths]
    return [[int(one) + (int(one) >= tokenizer.pad_token_id) for one in row] for row in ids]


def examples(tokenizer, chosen=(3, 1, 5), rejected=(2, 4, 5), prompt=(4, 2, 3)):
    """As TRL's collators of preferences take them."""
    parts = [drawn(tokenizer, lengths, seed) for seed, lengths in enumerate((prompt, chosen, rejected))]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return [dict(zip(names, each, strict=True)) for each in zip(*parts, strict=True)]


def settings(kind, folder, **more):
    plain = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False}
    return kind(output_dir=str(folder), disable_tqdm=True, **plain, **more)


def rows_of(pairs):
    """Ours: the chosen row of each pair, then the rejected ones; a loss falls on the completion."""
    ids = [(one["prompt_ids"], one[side]) for side in ("chosen_ids", "rejected_ids") for one in pairs]
    columns = {
        "ids": [[*prompt, *said] for prompt, said in ids],
        "trained": [[False] * len(prompt) + [True] * len(said) for prompt, said in ids],
    }
    return Rows.from_lists(columns, valid=[True] * len(ids))


def log_probs(model, rows):
    """Row by row, without padding; the first token of a row has none."""
    found = []
    for ids in torch.split(rows.tokens["ids"], rows.lengths.tolist()):
        said = model(input_ids=ids[None]).logits[0].log_softmax(-1)
        found += [said.new_zeros(1), said[:-1].gather(1, ids[1:, None])[:, 0]]
    return torch.cat(found)


def sums_of(model, rows):
    with torch.no_grad():
        return rows.row_sum(torch.where(rows.tokens["trained"], log_probs(model, rows), 0.0))


def gradient(loss, model):
    """By every parameter, the head of the vocabulary and the embedding among them."""
    parameters = [one for one in model.parameters() if one.requires_grad]
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    pieces = [torch.zeros_like(one) if each is None else each for one, each in zip(parameters, found, strict=True)]
    return torch.cat([piece.flatten() for piece in pieces])


def same_gradient(ours, theirs):
    assert theirs.abs().max() > 1e-2, "a gradient of nothing would agree with anything"
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def held(rows, sums, loss, trainer, batch, times=1.0):
    """Our loss and gradient over `times` TRL's; answers our metrics."""
    model, order = trainer.model, torch.arange(PAIRS)
    found = pairwise_weights(rows, Pairs(order, order + PAIRS), sums, loss)
    theirs = trainer.compute_loss(model, batch)
    assert found.metrics["pairs/loss"] == pytest.approx(times * theirs.item(), **CLOSE)
    ours = Sft()(View.of_rows(log_probs(model, rows), found.weight, rows.row_of_token)).loss
    same_gradient(gradient(ours, model) / times, gradient(theirs, model))
    return found.metrics


def test_sft_is_the_mean_over_all_trained_tokens(tokenizer, policy, tmp_path):
    """Rows of different lengths, so that a mean over rows would be another number."""
    prompts, said = drawn(tokenizer, (4, 2, 3)), drawn(tokenizer, (3, 1, 6), seed=1)
    trainer = SFTTrainer(
        policy,
        settings(SFTConfig, tmp_path),
        train_dataset=Dataset.from_list([{"text": "count"}]),
        processing_class=tokenizer,
    )
    labels = [[-100] * len(prompt) + answer for prompt, answer in zip(prompts, said, strict=True)]
    batch = trainer.data_collator(
        [
            {"input_ids": [*prompt, *answer], "labels": label}
            for prompt, answer, label in zip(prompts, said, labels, strict=True)
        ]
    )
    assert int((batch["labels"] != -100).sum()) == 10
    rows = Rows.from_lists(
        {
            "ids": [[*prompt, *answer] for prompt, answer in zip(prompts, said, strict=True)],
            "trained": [[one != -100 for one in label] for label in labels],
            "off": [[one != -100 for one in label] for label in labels],
        },
        prompt=[0, 1, 2],
        mix_on=[0.0] * 3,
        mix_off=[0.0] * 3,
        mix_sft=[1.0] * 3,
    )
    theirs = trainer.compute_loss(policy, batch)
    for agg, same in (("token", True), ("sequence", False)):
        algorithm = load_run(
            ["experiment=tiny-sft", f"algorithm.loss_agg={agg}", "algorithm.sft_loss_coef=1"]
        ).algorithm
        weight = build_weights(rows, algorithm, 8, torch.zeros(3, dtype=torch.int64), 1)["sft"]
        ours = Sft()(View.of_rows(log_probs(policy, rows), weight, rows.row_of_token)).loss
        assert (ours.item() == pytest.approx(theirs.item(), **CLOSE)) == same
        if same:
            same_gradient(gradient(ours, policy), gradient(theirs, policy))


def dpo(policy, reference, tokenizer, folder, **more):
    config = settings(DPOConfig, folder, **more)
    return DPOTrainer(policy, reference, config, train_dataset=Dataset.from_list(WORDS), processing_class=tokenizer)


@pytest.mark.parametrize("beta", [0.1, 0.5])
def test_dpo_is_the_mean_over_pairs_of_sums_over_the_completion(tokenizer, policy, reference, tmp_path, beta):
    trainer = dpo(policy, reference, tokenizer, tmp_path, beta=beta)
    pairs = examples(tokenizer)
    rows = rows_of(pairs)
    sums = RowSums(sums_of(policy, rows), sums_of(reference, rows))
    held(rows, sums, PAIRWISE.get("dpo")(beta=beta), trainer, trainer.data_collator(pairs))


def test_ipo_is_that_of_sums_and_trls_of_means(tokenizer, policy, reference, tmp_path):
    """(h - 1 / (2 beta))^2 with h a sum is L^2 (h / L - 1 / (2 beta L))^2."""
    length, beta = 4, 0.1
    trainer = dpo(policy, reference, tokenizer, tmp_path, beta=beta * length, loss_type=["ipo"])
    pairs = examples(tokenizer, chosen=(length,) * PAIRS, rejected=(length,) * PAIRS)
    rows = rows_of(pairs)
    sums = RowSums(sums_of(policy, rows), sums_of(reference, rows))
    batch = trainer.data_collator(pairs)
    held(rows, sums, PAIRWISE.get("ipo")(beta=beta), trainer, batch, times=length**2)


def test_kto_is_the_mean_over_rows_and_its_drift_that_of_mismatched_rows(tokenizer, policy, reference, tmp_path):
    """A desirable row for each chosen one, and an undesirable for each rejected one, of other weights."""
    config = settings(KTOConfig, tmp_path, beta=0.2, desirable_weight=1.0, undesirable_weight=1.5)
    words = [
        {"prompt": "count", "completion": "1", "label": True},
        {"prompt": "sum", "completion": "2", "label": False},
    ]
    trainer = KTOTrainer(policy, reference, config, train_dataset=Dataset.from_list(words), processing_class=tokenizer)
    pairs = examples(tokenizer)
    said = [(one["prompt_ids"], one[f"{side}_ids"], side) for side in ("chosen", "rejected") for one in pairs]
    other = [*said[1:], said[0]]
    rows = rows_of(pairs)
    mismatched = rows_of(
        [
            {"prompt_ids": prompt, "chosen_ids": answer, "rejected_ids": answer}
            for (prompt, _, _), (_, answer, _) in zip(said, other, strict=True)
        ]
    )
    batch = trainer.data_collator(
        [
            {"prompt_ids": prompt, "completion_ids": answer, "label": side == "chosen", "KL_completion_ids": wrong}
            for (prompt, answer, side), (_, wrong, _) in zip(said, other, strict=True)
        ]
    )
    drift = mismatched_drift(sums_of(policy, mismatched), sums_of(reference, mismatched))
    sums = RowSums(sums_of(policy, rows), sums_of(reference, rows), drift)
    loss = PAIRWISE.get("kto")(beta=0.2, desirable=1.0, undesirable=1.5)
    metrics = held(rows, sums, loss, trainer, batch)
    assert metrics["pairs/count"] == 2 * PAIRS


def old_style(pairs, pad):
    """The batch of TRL's older preference trainers: chosen and rejected rows apart, -100 where no loss falls."""
    batch = {}
    for side in ("chosen", "rejected"):
        whole = [[*one["prompt_ids"], *one[f"{side}_ids"]] for one in pairs]
        most = max(map(len, whole))
        hidden = [[-100] * len(one["prompt_ids"]) + one[f"{side}_ids"] for one in pairs]
        batch[f"{side}_input_ids"] = torch.tensor([ids + [pad] * (most - len(ids)) for ids in whole])
        batch[f"{side}_attention_mask"] = torch.tensor([[1] * len(ids) + [0] * (most - len(ids)) for ids in whole])
        batch[f"{side}_labels"] = torch.tensor([ids + [-100] * (most - len(ids)) for ids in hidden])
    return batch


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_smoothed_dpo_with_a_reference_that_says_nothing(tokenizer, policy, tmp_path, smoothing):
    config = settings(CPOConfig, tmp_path, beta=0.1, loss_type="sigmoid", label_smoothing=smoothing, cpo_alpha=0.0)
    trainer = CPOTrainer(policy, config, train_dataset=Dataset.from_list(WORDS), processing_class=tokenizer)
    pairs = examples(tokenizer)
    rows = rows_of(pairs)
    sums = RowSums(sums_of(policy, rows), torch.zeros(2 * PAIRS))
    loss = PAIRWISE.get("dpo")(beta=0.1, label_smoothing=smoothing)
    held(rows, sums, loss, trainer, old_style(pairs, tokenizer.pad_token_id))


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_simpo_is_the_mean_over_pairs_of_means_over_the_completion(tokenizer, policy, tmp_path, gamma):
    """TRL's `simpo_gamma` is our gamma: it is divided by beta and multiplied again."""
    config = settings(CPOConfig, tmp_path, beta=2.0, loss_type="simpo", simpo_gamma=gamma, cpo_alpha=0.0)
    trainer = CPOTrainer(policy, config, train_dataset=Dataset.from_list(WORDS), processing_class=tokenizer)
    pairs = examples(tokenizer)
    rows = rows_of(pairs)
    loss = PAIRWISE.get("simpo")(beta=2.0, gamma=gamma)
    held(rows, RowSums(sums_of(policy, rows)), loss, trainer, old_style(pairs, tokenizer.pad_token_id))


def test_orpo_where_prompts_are_one_token_and_lengths_equal(tokenizer, policy, tmp_path):
    """TRL's imitation runs over the prompt too, and over all tokens at once; its odds are those of the completion."""
    config = settings(ORPOConfig, tmp_path, beta=0.3)
    trainer = ORPOTrainer(policy, config, train_dataset=Dataset.from_list(WORDS), processing_class=tokenizer)
    pairs = examples(tokenizer, chosen=(4,) * PAIRS, rejected=(2, 3, 5), prompt=(1,) * PAIRS)
    rows = rows_of(pairs)
    loss = PAIRWISE.get("orpo")(odds_coef=0.3)
    held(rows, RowSums(sums_of(policy, rows)), loss, trainer, old_style(pairs, tokenizer.pad_token_id))


@pytest.mark.parametrize(("center", "margins"), [(0.0, None), (0.01, None), (0.01, [0.5, 0.0, -1.0])])
def test_the_reward_models_loss_with_its_margins_and_its_centre(tokenizer, tmp_path, center, margins):
    """The score of a row is read at its last token; TRL finds that by the padding."""
    model = model_of(tokenizer, 3, Qwen2ForSequenceClassification)
    config = settings(RewardConfig, tmp_path, center_rewards_coefficient=center or None)
    words = [{"chosen": "count 1", "rejected": "count 2"}]
    trainer = RewardTrainer(model, config, train_dataset=Dataset.from_list(words), processing_class=tokenizer)
    pairs = examples(tokenizer)
    rows = rows_of(pairs)
    whole = [
        {f"{side}_ids": [*one["prompt_ids"], *one[f"{side}_ids"]] for side in ("chosen", "rejected")} for one in pairs
    ]
    if margins:
        whole = [{**one, "margin": margin} for one, margin in zip(whole, margins, strict=True)]
    theirs = trainer.compute_loss(model, trainer.data_collator(whole))

    def scores():
        pieces = torch.split(rows.tokens["ids"], rows.lengths.tolist())
        return torch.cat([model(input_ids=ids[None]).logits[0] for ids in pieces])

    order = torch.arange(PAIRS)
    own = Pairs(order, order + PAIRS, margin=None if margins is None else torch.tensor(margins))
    found = pairwise_weights(rows, own, RowSums(scores().detach()), PAIRWISE.get("bradley_terry")(center=center))
    assert found.metrics["pairs/loss"] == pytest.approx(theirs.item(), **CLOSE)
    assert int((found.weight != 0).sum()) == 2 * PAIRS
    ours = -(found.weight[rows.last(rows.tokens["trained"])] * scores()).sum()
    same_gradient(gradient(ours, model), gradient(theirs, model))
