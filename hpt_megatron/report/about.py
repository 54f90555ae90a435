"""What a run is, in a few words, from the configuration that it left; what is missing there is left out.

Example: about(read(Path("runs/tiny-hpt"))) -> [("model", "Qwen2.5-VL, 1.1 million parameters"), ...]
"""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hpt_megatron.config.geometry import parameters
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.config.typed import read
from hpt_megatron.report.folder import Recorded

FAMILIES = {"qwen2_5_vl": "Qwen2.5-VL", "qwen2_5": "Qwen2.5", "llama3_1": "Llama 3.1"}
STRATEGIES = {
    "switch": "HPT, switch",
    "soft": "HPT, soft",
    "adaptive": "HPT, adaptive gate",
    "anneal": "HPT, annealed",
    "no": "no imitation by decision",
}
LOSSES = {
    "bradley_terry": "reward model (Bradley-Terry)",
    "dpo": "DPO",
    "ipo": "IPO",
    "simpo": "SimPO",
    "orpo": "ORPO",
    "kto": "KTO",
    "imitate": "rejection sampling",
}


def about(run: Recorded) -> list[tuple[str, str]]:
    """Names and values, the most important first."""
    found = [
        ("model", model_of(run)),
        ("algorithm", algorithm_of(run)),
        ("data", data_of(run)),
        ("reward", reward_of(run)),
        ("rollouts", rollouts_of(run)),
        ("trainer", trainer_of(run)),
        ("seed", _text(run.value("trainer.seed"))),
        ("folder", str(run.folder)),
    ]
    return [(name, text) for name, text in found if text]


def model_of(run: Recorded) -> str:
    """Family and size, and where the checkpoint lay."""
    told, family = run.value("model"), run.value("model.family")
    parts = [FAMILIES.get(str(family), str(family))] if family else []
    if isinstance(told, Mapping):
        shape, problems = read(ModelConfig, dict(told), dict(told)) if _whole(told) else (None, [])
        if shape is not None and not problems:
            parts.append(f"{in_words(parameters(shape))} parameters")
    path = run.value("model.path")
    return ", ".join([*parts, *([PurePath(path).name] if isinstance(path, str) else [])])


def algorithm_of(run: Recorded) -> str:
    """Strategy and credit; the loss where pairs are trained on."""
    preference = run.value("algorithm.preference.loss")
    if preference is not None:
        pairs = "the run's own rollouts" if samples(run) else "the data"
        heads = run.value("algorithm.preference.heads")
        named = f", heads {', '.join(map(str, heads))}" if isinstance(heads, list) and heads else ""
        return f"{LOSSES.get(str(preference), str(preference))}{named}, pairs of {pairs}"
    if imitates(run):
        return "imitation of demonstrations"
    strategy = run.value("algorithm.unify_strategy")
    if strategy is None:
        return ""
    text = STRATEGIES.get(str(strategy), str(strategy))
    gate = run.value("algorithm.switch_gate")
    if strategy == "switch" and gate is not None:
        text += f" (gate {gate})"
    warm_up = run.value("trainer.sft_warmup_steps")
    if run.value("algorithm.n_prefix"):
        text += ", prefixes of demonstrations"
    text += f", credit {run.value('algorithm.adv_estimator')}"
    return text + (f", after {warm_up} steps of imitation" if warm_up else "")


def data_of(run: Recorded) -> str:
    """Files or the embedded task, and what a step takes."""
    files, task = run.value("data.train_files"), run.value("data.make")
    named = ", ".join(PurePath(str(file)).name for file in files[:3]) if isinstance(files, list) else ""
    what = named or (f"embedded task {task}" if task else "")
    batch = run.value("data.train_batch_size")
    return f"{what}; {batch} prompts a step" if what and batch else what


def reward_of(run: Recorded) -> str:
    """Which reward, and what counts as a success."""
    tested = any(name.startswith("val/mean_score") for numbers in run.validations for name in numbers)
    if not samples(run) and not tested:
        return ""
    named = run.value("reward.file") or run.value("reward.preset")
    number = run.value("reward.reward_impl_version")
    text = str(named) if named else f"number {number}" if number is not None else ""
    found = run.value("algorithm.success")
    conditions = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    rule = [f"{one.get('component')} {one.get('op')} {one.get('value')}" for one in conditions]
    text += learned_of(run)
    return f"{text}; a success is {' and '.join(rule)}" if text and rule else text


def learned_of(run: Recorded) -> str:
    """Reward models beside it, and what has to hold."""
    runs, how = run.value("reward.learned.runs"), run.value("reward.constraint.how")
    text = ""
    if isinstance(runs, list) and runs:
        names = ", ".join(PurePath(str(each)).name for each in runs)
        weights = f"{run.value('reward.learned.weight')}, the rules {run.value('reward.learned.rules_weight')}"
        text = f", with reward model{'s' * (len(runs) > 1)} {names} (weight {weights})"
    if how not in (None, "off"):
        limit = run.value("reward.constraint.at_least")
        text += f"; {how}: {run.value('reward.constraint.component')} at least {limit}"
    return text


def samples(run: Recorded) -> bool:
    """Whether its steps have rollouts: not where it imitates from end to end, or learns from pairs of the data."""
    of_files = run.value("algorithm.preference.pairs") == "file"
    return not imitates(run) and not (run.value("algorithm.preference.loss") is not None and of_files)


def imitates(run: Recorded) -> bool:
    """Whether all of its steps are imitation."""
    trainer = run.value("trainer")
    return isinstance(trainer, Mapping) and "sft_warmup_steps" in trainer and trainer["sft_warmup_steps"] is None


def rollouts_of(run: Recorded) -> str:
    """How many, how long, by whom."""
    if not samples(run):
        return ""
    switch = run.value("algorithm.unify_strategy") == "switch"
    n = run.value("rollout.n_verify") if switch else run.value("rollout.n")
    if n is None:
        return ""
    agent = run.value("rollout.agent")
    kind = "" if agent in (None, "single_turn") else f", agent {agent}"
    return (
        f"{n} a prompt, up to {run.value('data.max_response_length')} tokens, "
        f"temperature {run.value('rollout.temperature')}{kind}"
    )


def trainer_of(run: Recorded) -> str:
    """Devices and rates."""
    nodes, each = run.value("trainer.nnodes"), run.value("trainer.n_gpus_per_node")
    if nodes is None or each is None:
        return ""
    sizes = ((name, run.value(f"layout.{name}")) for name in ("tp", "pp", "cp"))
    cut = ", ".join(f"{name} {size}" for name, size in sizes if size)
    return f"{nodes} x {each} devices, {run.value('trainer.placement')}; {cut}; learning rate {run.value('trainer.lr')}"


def in_words(size: int) -> str:
    """A count of parameters.

    >>> in_words(1_108_480), in_words(8_292_166_656)
    ('1.1 million', '8.29 billion')
    """
    return f"{size / 1e9:.2f} billion" if size >= 1e9 else f"{size / 1e6:.1f} million"


def _whole(told: Mapping[str, Any]) -> bool:
    return {*ModelConfig.__dataclass_fields__} == {*told}


def _text(value: Any) -> str:
    return "" if value is None else str(value)
