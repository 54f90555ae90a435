"""What a rollout is worth: the number or what stands in its place, shares, limits and the judge."""

import re
from collections.abc import Iterator
from os.path import isfile

from hpt_megatron.config.address import address_problems
from hpt_megatron.config.presets import PRESETS
from hpt_megatron.config.problem import Problem
from hpt_megatron.config.run import RunConfig
from hpt_megatron.registry import plugged

LAST_VERSION, FIRST_PLUGIN, RETRIEVAL, SEARCH_AGENT, SEARCHER = 9, 100, 7, 8, 9
NUMBERS = "hpt_megatron.reward_numbers"
# Of the rewards that are mixed, the shares that each has.
SHARES = {
    RETRIEVAL: ("format", "ndcg"),
    SEARCH_AGENT: ("answer", "format", "ndcg"),
    SEARCHER: ("answer", "format", "ndcg"),
}
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}")
MOST_RETRIES = 3


def check_reward_version(run: RunConfig) -> Iterator[Problem]:
    """Rewards are numbered 0 to 9; numbers of other packages start at 100."""
    version = run.reward.reward_impl_version
    if not 0 <= version <= LAST_VERSION and str(version) not in plugged(NUMBERS):
        others = [name for name in plugged(NUMBERS) if name.isdecimal() and int(name) >= FIRST_PLUGIN]
        found = f"; found: {', '.join(others)}" if others else ""
        right = f"0 to {LAST_VERSION} (7 scores retrieval), or {FIRST_PLUGIN} and above for a plug-in{found}"
        yield Problem("reward.reward_impl_version", version, "no such reward", right)


def check_turn_reward(run: RunConfig) -> Iterator[Problem]:
    """A loss over pairs has one number for each answer, imitation none; no turn of them earns anything."""
    coef = run.reward.turn_coef
    if coef and (run.supervised or run.algorithm.preference.loss is not None):
        yield Problem("reward.turn_coef", coef, "pairs are told apart by whole answers, targets are not paid", "0")


def check_retrieval_success(run: RunConfig) -> Iterator[Problem]:
    """Reward 7 gives no accuracy; of its score, the format's part alone is no success."""
    if run.reward.number != RETRIEVAL:
        return
    share = run.reward.weights.format
    formatted = 0.1 if share is None else share
    right = f"reward=rag, or algorithm.success=[{{component: score, op: '>', value: {formatted:g}}}]"
    for success in run.algorithm.success:
        if success.component == "accuracy":
            yield Problem("algorithm.success", "accuracy", "reward 7 is a score and gives no accuracy", right)
        beaten = success.value > formatted or (success.op == ">" and success.value == formatted)
        if success.component == "score" and not beaten:
            why = f"the format alone earns {formatted:g}, and would be a success"
            yield Problem("algorithm.success", f"score {success.op} {success.value:g}", why, right)


def check_reward_source(run: RunConfig) -> Iterator[Problem]:
    """What takes the number's place exists: a file, which comes before a preset, or a preset."""
    reward = run.reward
    if reward.file is not None and not isfile(reward.file):
        yield Problem("reward.file", reward.file, "no such file", "an existing composition in JSON, or null")
    if reward.preset is not None and reward.preset not in PRESETS:
        yield Problem("reward.preset", reward.preset, "no such preset", ", ".join(PRESETS))
    if reward.run_code and reward.file is None:
        why = "no number and no preset runs code"
        yield Problem("reward.run_code", True, why, "false, or reward.file with a code component", "warning")


def check_reward_weights(run: RunConfig) -> Iterator[Problem]:
    """Shares are not negative, and belong to a reward that has them."""
    reward = run.reward
    weights, number = reward.weights, reward.number
    has = () if number is None else SHARES.get(number, ())
    for key, share in (("answer", weights.answer), ("format", weights.format), ("ndcg", weights.ndcg)):
        path = f"reward.weights.{key}"
        if share is not None and share < 0:
            yield Problem(path, share, "a negative share would pay for the opposite", "0 or more")
        elif share is not None and key not in has:
            what = "a file or a preset" if number is None else f"reward {number}"
            yield Problem(path, share, f"{what} does not read it", "null, or a reward of 7 to 9", "warning")


def check_modality_weights(run: RunConfig) -> Iterator[Problem]:
    """A row is not paid for the opposite because of what it shows."""
    modality_weights = run.reward.modality_weights
    for key in ("text", "image", "images"):
        weight = getattr(modality_weights, key)
        if weight < 0:
            path = f"reward.modality_weights.{key}"
            yield Problem(path, weight, "a negative weight would pay for the opposite", "0 or more")


def check_reward_limits(run: RunConfig) -> Iterator[Problem]:
    """A response has some time to be scored in."""
    reward = run.reward
    if not 0 < reward.timeout_s <= 3600:
        yield Problem("reward.timeout_s", reward.timeout_s, "leaves no time, or no end", "5.0; above 0, at most 3600")


def check_judge(run: RunConfig) -> Iterator[Problem]:
    """What asks a judge has one, at an address without credentials, asked a bounded number of times."""
    judge, number = run.reward.judge, run.reward.number
    example = "http://127.0.0.1:8003/v1/chat/completions"
    if judge.url is None and number == SEARCHER:
        yield Problem("reward.judge.url", None, "reward 9 asks a judge whether the answer is right", example)
    if judge.url is None and number == SEARCH_AGENT:
        why = "without a judge, reward 8 compares the text of the answer (ANLS)"
        yield Problem("reward.judge.url", None, why, example, "warning")
    if judge.url is not None:
        yield from address_problems("reward.judge.url", judge.url, "http://HOST:PORT/v1/chat/completions")
    if judge.token_env is not None and not VARIABLE.fullmatch(judge.token_env):
        why = "names a variable of the environment; a run is recorded, so a token itself has no place in it"
        yield Problem("reward.judge.token_env", "(not shown)", why, "JUDGE_TOKEN, for example")
    if not 0 < judge.timeout_s <= 3600:
        yield Problem("reward.judge.timeout_s", judge.timeout_s, "leaves no time, or no end", "30.0")
    if not 0 <= judge.retries <= MOST_RETRIES:
        yield Problem("reward.judge.retries", judge.retries, "a judge is not asked for ever", f"0 to {MOST_RETRIES}")
    if judge.votes % 2 == 0:
        yield Problem("reward.judge.votes", judge.votes, "may be a draw", f"{judge.votes - 1} or {judge.votes + 1}")
