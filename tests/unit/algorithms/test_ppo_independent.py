"""PPO of four models against a second implementation: padded, in loops over rows and tokens, and from nothing of ours.

`Plain` below does what the trainer of source 004 means to do, with masks where that one has none: log-probs of actor
and reference, a reward model read at the last valid token, KL (k1) on every token of the response, GAE, whitening,
the clipped surrogate, the clipped loss of the critic, the entropy of the whole distribution, all as means over the
tokens of responses. Ours gets the same models' log-probs, values and scores as packed rows and goes through
`Algorithm.credited` and `Algorithm.weighted` and the components of `experiment=tiny-ppo`.

Rows have prompts and responses of different lengths, one of them a single token, one with an observation in the middle
that the policy did not say. Held to 1e-5: rewards, advantages, returns, every loss, and the gradients of actor and
critic. What that source's loop gives on rows without padding is held against the same.

Not covered here: sampling, the passes of the models (`tests/dist`), the optimizer, the control of beta
(`control/test_kl_control.py`).
"""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from hpt_megatron.algorithms.objective.part import View
from hpt_megatron.config.load import load_run
from hpt_megatron.driver.loop.algorithm import Algorithm
from hpt_megatron.protocol.rows import Rows

VOCABULARY = 13
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
# Of each row: tokens of the prompt, then which of the tokens after it the policy said.
SHAPES = [(2, [1, 1, 1, 1]), (4, [1]), (1, [1, 1, 0, 0, 1, 1, 1]), (3, [1, 1, 1]), (2, [1, 1, 1, 1, 1, 0])]


class Tiny(nn.Module):
    """A model that reads from left to right; `out` numbers after each token."""

    def __init__(self, out, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.words, self.reads, self.says = (
            nn.Embedding(VOCABULARY, 8),
            nn.GRU(8, 8, batch_first=True),
            nn.Linear(8, out),
        )

    def forward(self, ids):
        """[B, T, out] of padded rows; padding stands on the right and is never seen by what comes before it."""
        return self.says(2 * self.reads(3 * self.words(ids))[0])


@dataclass
class Models:
    """The four."""

    actor: Tiny
    critic: Tiny
    reference: Tiny
    reward: Tiny


def models():
    return Models(Tiny(VOCABULARY, 1), Tiny(1, 2), Tiny(VOCABULARY, 3).requires_grad_(False), Tiny(1, 4))


def batch_of(shapes, seed=0):
    """Padded ids and which of them the policy said."""
    longest = max(prompt + len(said) for prompt, said in shapes)
    generator = torch.Generator().manual_seed(seed)
    ids, mask = torch.zeros(len(shapes), longest, dtype=torch.int64), torch.zeros(len(shapes), longest)
    for row, (prompt, said) in enumerate(shapes):
        length = prompt + len(said)
        ids[row, :length] = torch.randint(1, VOCABULARY, (length,), generator=generator)
        mask[row, prompt:length] = torch.tensor(said, dtype=torch.float32)
    return ids, mask


@dataclass
class Settings:
    """Of both sides."""

    beta: float = 0.05
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    clip: float = 0.2
    value_clip: float | None = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.01


class Plain:
    """See the module. Everything is [B, T]; what stands outside `mask` is never looked at."""

    def __init__(self, models, ids, mask, settings):
        self.models, self.ids, self.mask, self.settings = models, ids, mask, settings
        self.places = [(row, at) for row in range(len(ids)) for at in range(ids.shape[1]) if mask[row, at]]

    def log_probs(self, model):
        """Of the token itself, from what stood before it, and the entropy there."""
        said = model(self.ids)
        logp, entropy = torch.zeros_like(self.mask), torch.zeros_like(self.mask)
        for row, at in self.places:
            before = said[row, at - 1].log_softmax(-1)
            logp[row, at] = before[self.ids[row, at]]
            entropy[row, at] = -sum(p.exp() * p for p in before)
        return logp, entropy

    def values(self, model):
        """Of the state before each token."""
        said, found = model(self.ids)[..., 0], torch.zeros_like(self.mask)
        for row, at in self.places:
            found[row, at] = said[row, at - 1]
        return found

    def scores(self):
        """The reward model's, at the last token that the policy said."""
        said = self.models.reward(self.ids)[..., 0]
        return torch.stack([said[row, max(at for r, at in self.places if r == row)] for row in range(len(self.ids))])

    @torch.no_grad()
    def collect(self):
        """Rewards, advantages, returns, with the log-probs and values that they come from."""
        old, _ = self.log_probs(self.models.actor)
        reference, _ = self.log_probs(self.models.reference)
        values, scores, set_ = self.values(self.models.critic), self.scores(), self.settings
        rewards, advantages = torch.zeros_like(old), torch.zeros_like(old)
        for row in range(len(self.ids)):
            own = [at for r, at in self.places if r == row]
            for at in own:
                rewards[row, at] = -set_.beta * (old[row, at] - reference[row, at])
            rewards[row, own[-1]] += scores[row]
            after, following = 0.0, 0.0
            for at in reversed(own):
                delta = rewards[row, at] + set_.gamma * following - values[row, at]
                after = delta + set_.gamma * set_.lam * after
                following = values[row, at]
                advantages[row, at] = after
        returns = torch.where(self.mask > 0, advantages + values, 0.0)
        if set_.whiten:
            counted = torch.stack([advantages[place] for place in self.places])
            mean = sum(counted) / len(counted)
            std = (sum((each - mean) ** 2 for each in counted) / (len(counted) - 1)) ** 0.5
            advantages = torch.where(self.mask > 0, (advantages - mean) / (std + 1e-8), 0.0)
        return {
            "old": old,
            "reference": reference,
            "values": values,
            "scores": scores,
            "rewards": rewards,
            "advantages": advantages,
            "returns": returns,
        }

    def losses(self, collected):
        """Of the models as they are now: surrogate, critic, entropy, and the share of clipped tokens."""
        now, entropy = self.log_probs(self.models.actor)
        values, set_ = self.values(self.models.critic), self.settings
        surrogate, critic, bonus, clipped = [], [], [], []
        for place in self.places:
            ratio = (now[place] - collected["old"][place]).exp()
            advantage, old_value = collected["advantages"][place], collected["values"][place]
            plain, held = ratio * advantage, ratio.clamp(1 - set_.clip, 1 + set_.clip) * advantage
            surrogate.append(-torch.min(plain, held))
            clipped.append(float(held < plain))
            error = (values[place] - collected["returns"][place]) ** 2
            if set_.value_clip is not None:
                near = values[place].clamp(old_value - set_.value_clip, old_value + set_.value_clip)
                error = torch.max(error, (near - collected["returns"][place]) ** 2)
            critic.append(error)
            bonus.append(entropy[place])
        count = len(self.places)
        return sum(surrogate) / count, sum(critic) / count, sum(bonus) / count, sum(clipped) / count


def moved(model, by, seed):
    """The same model some updates later."""
    torch.manual_seed(seed)
    later = copy.deepcopy(model)
    with torch.no_grad():
        for one in later.parameters():
            one += by * torch.randn_like(one)
    return later


def packed(shapes, padded):
    """Columns of a padded batch as ours have them, one row after the other."""
    lengths = [prompt + len(said) for prompt, said in shapes]
    return torch.cat([padded[row, :length] for row, length in enumerate(lengths)])


def rows_of(ids, mask, shapes, collected):
    lengths = torch.tensor([prompt + len(said) for prompt, said in shapes])

    def column(padded):
        return packed(shapes, padded)

    count = len(shapes)
    trained = column(mask) > 0
    tokens = {"ids": column(ids), "trained": trained, "response": trained, "off": torch.zeros_like(trained)}
    tokens |= {"old_logp": column(collected["old"]), "value": column(collected["values"])}
    tokens |= {"old_value": column(collected["values"])}
    no = torch.zeros(count, dtype=torch.bool)
    fields = {"prompt": torch.arange(count) // 2, "sample": torch.arange(count) % 2, "score": collected["scores"]}
    fields |= {"valid": ~no, "off": no, "cut": no, "success": no.float()}
    fields |= {"mix_on": torch.ones(count), "mix_off": torch.zeros(count), "mix_sft": torch.zeros(count)}
    return Rows(lengths, tokens, fields)


def algorithm_of(settings, *more):
    clip = "null" if settings.value_clip is None else settings.value_clip
    given = {
        "kl_ctrl.kl_coef": settings.beta,
        "gamma": settings.gamma,
        "lam": settings.lam,
        "whiten_advantages": settings.whiten,
        "policy_loss": "clip",
        "clip_ratio_low": settings.clip,
        "clip_ratio_high": settings.clip,
        "value_clip": clip,
        "value_coef": settings.value_coef,
        "entropy_coeff": settings.entropy_coef,
    }
    return Algorithm(
        load_run(["experiment=tiny-ppo", *(f"algorithm.{key}={one}" for key, one in given.items()), *more])
    )


def ours(algorithm, rows, reference):
    """Credited rows with their weights, as an optimizer step has them."""
    credited, told = algorithm.credited(rows, reference)
    parts = [*algorithm.components, *algorithm.critic_components]
    return credited, algorithm.weighted(credited, torch.zeros(rows.num_rows, dtype=torch.int64), 1, parts), told


def part_of(component, weighted, said):
    """What a component makes of the whole batch; `said`: log-probs, entropy and values of now."""
    stored = {name: weighted.tokens[name] for name in component.reads if name in weighted.tokens}
    stored |= {"value": said["value"]} if "value" in component.reads else {}
    if component.name == "rl":
        stored["old_logp"] = weighted.tokens["old_logp"]
    weight = weighted.tokens[f"weight_{component.name}"]
    return component(View.of_rows(said["logp"], weight, weighted.row_of_token, entropy=said["entropy"], **stored))


def gradient(loss, model):
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)])


CASES = [
    Settings(),
    Settings(beta=0.5, gamma=0.9, lam=1.0, whiten=False, value_clip=None),
    Settings(lam=0.0, value_clip=0.05, clip=0.1),
]


@pytest.mark.parametrize("settings", CASES, ids=["usual", "no clips of the critic", "tight"])
def test_rewards_advantages_returns_losses_and_gradients_are_those_of_the_plain_one(settings):
    four = models()
    ids, mask = batch_of(SHAPES)
    plain = Plain(four, ids, mask, settings)
    collected = plain.collect()

    def column(padded):
        return packed(SHAPES, padded)

    algorithm = algorithm_of(settings)
    rows = rows_of(ids, mask, SHAPES, collected)
    credited, weighted, told = ours(algorithm, rows, column(collected["reference"]))
    torch.testing.assert_close(credited.tokens["reward"], column(collected["rewards"]), **CLOSE)
    torch.testing.assert_close(credited.tokens["credit"], column(collected["advantages"]), **CLOSE)
    torch.testing.assert_close(credited.tokens["returns"], column(collected["returns"]), **CLOSE)
    kl = (collected["old"] - collected["reference"]).sum(-1).mean()
    assert told["kl/sequence"] == pytest.approx(kl.item(), rel=1e-5, abs=1e-5)
    assert told["critic/rewards/mean"] == pytest.approx(
        (collected["scores"] - settings.beta * (collected["old"] - collected["reference"]).sum(-1)).mean().item(),
        rel=1e-5,
        abs=1e-5,
    )

    plain.models = Models(moved(four.actor, 0.15, 7), moved(four.critic, 0.1, 8), four.reference, four.reward)
    surrogate, critic, bonus, clipped = plain.losses(collected)
    now, entropy = plain.log_probs(plain.models.actor)
    said = {"logp": column(now), "entropy": column(entropy), "value": column(plain.values(plain.models.critic))}
    found = {one.name: part_of(one, weighted, said) for one in (*algorithm.components, *algorithm.critic_components)}
    assert set(found) == {"rl", "entropy", "value"}, "no demonstrations, and KL is in the reward"
    torch.testing.assert_close(found["rl"].loss, surrogate, **CLOSE)
    torch.testing.assert_close(found["entropy"].loss, -settings.entropy_coef * bonus, **CLOSE)
    torch.testing.assert_close(found["value"].loss, settings.value_coef * critic, **CLOSE)
    total, count = found["rl"].metrics["actor/pg_clipfrac"]
    assert (total / count).item() == pytest.approx(clipped)
    assert 0 < clipped < 1, "some tokens are clipped and some are not"
    total, count = found["value"].metrics["critic/vf_clipfrac"]
    assert (0 < total < count) == (settings.value_clip is not None)

    theirs = gradient(surrogate - settings.entropy_coef * bonus, plain.models.actor)
    own = gradient(found["rl"].loss + found["entropy"].loss, plain.models.actor)
    torch.testing.assert_close(own, theirs, **CLOSE)
    torch.testing.assert_close(
        gradient(found["value"].loss, plain.models.critic),
        gradient(settings.value_coef * critic, plain.models.critic),
        **CLOSE,
    )
    assert theirs.abs().max() > 1e-2


def test_padding_changes_nothing_where_masks_are_used():
    """The same rows in a batch twice as long; the source's own loop reads the last column as the end of every row."""
    four, settings = models(), Settings()
    ids, mask = batch_of(SHAPES)
    longer = [torch.cat([one, torch.zeros_like(one)], 1) for one in (ids, mask)]
    one, other = (Plain(four, *each, settings).collect() for each in ((ids, mask), longer))
    for name in ("rewards", "advantages", "returns"):
        torch.testing.assert_close(other[name][:, : ids.shape[1]], one[name])
        assert not other[name][:, ids.shape[1] :].any()


def gae_of_the_source(rewards, values, gamma=1.0, lam=0.95):
    """Source 004's `_compute_gae` as it stands: no mask."""
    advantages, last = torch.zeros_like(rewards), 0
    for t in reversed(range(rewards.shape[1])):
        following = 0 if t == rewards.shape[1] - 1 else values[:, t + 1]
        delta = rewards[:, t] + gamma * following - values[:, t]
        last = delta + gamma * lam * last
        advantages[:, t] = last
    return advantages


def test_the_sources_own_loop_is_the_same_where_nothing_is_padded():
    """Rows of one length with responses of one length: there its last column is the last valid token."""
    shapes, settings = [(2, [1] * 5)] * 4, Settings(whiten=False)
    ids, mask = batch_of(shapes)
    collected = Plain(models(), ids, mask, settings).collect()
    kl = (collected["old"] - collected["reference"])[:, 2:]
    rewards = torch.zeros_like(kl)
    rewards[:, -1] = collected["scores"]
    rewards -= settings.beta * kl
    expected = torch.zeros_like(mask)
    expected[:, 2:] = gae_of_the_source(rewards, collected["values"][:, 2:])
    rows = rows_of(ids, mask, shapes, collected)
    credited, _ = algorithm_of(settings).credited(rows, packed(shapes, collected["reference"]))
    torch.testing.assert_close(credited.tokens["credit"], packed(shapes, expected), **CLOSE)


def test_kl_is_exactly_0_and_the_reward_is_the_score_where_the_actor_is_still_the_reference():
    four = models()
    four.reference = copy.deepcopy(four.actor)
    ids, mask = batch_of(SHAPES)
    collected = Plain(four, ids, mask, Settings()).collect()
    rows = rows_of(ids, mask, SHAPES, collected)
    credited, told = algorithm_of(Settings()).credited(rows, packed(SHAPES, collected["reference"]))
    assert (told["kl/sequence"], told["kl/mean"], told["critic/kl"]) == (0.0, 0.0, 0.0)
    last = credited.last(credited.tokens["trained"])
    assert torch.equal(credited.tokens["reward"][last], collected["scores"])
    assert int((credited.tokens["reward"] != 0).sum()) == len(SHAPES)


def test_whitened_credit_has_mean_0_and_deviation_1_over_valid_tokens():
    ids, mask = batch_of(SHAPES)
    collected = Plain(models(), ids, mask, Settings()).collect()
    rows = rows_of(ids, mask, SHAPES, collected)
    credited, _ = algorithm_of(Settings()).credited(rows, packed(SHAPES, collected["reference"]))
    own = credited.tokens["credit"][credited.tokens["trained"]]
    assert (own.mean().item(), own.std().item()) == pytest.approx((0.0, 1.0), abs=1e-5)
    assert not credited.tokens["credit"][~credited.tokens["trained"]].any()
