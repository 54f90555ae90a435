"""Which models a run loads, and what each of them holds on its devices.

    policy      trained; weights, gradients, optimizer
    reference   the policy as it was; weights alone. Only where a KL term has a weight
    critic      trained, a scalar head in place of the vocabulary's. Only for gae
    reward      rules on the host; no device holds anything for it
    reward_1    reward models, where a run asks some; weights alone, taken to be of the policy's size
    engine      vLLM's copy of the policy, and its cache

Decision: policy, reference and critic share the trainer's devices and are at home one at a time: the others are moved
out to host memory (`Held.offload`). So a phase needs what its largest role needs, not the sum.

Example:
    >>> from hpt_megatron.config.load import load
    >>> [role.name for role in roles_of(load(["experiment=hpt-7b", "algorithm.adv_estimator=gae"]).run)]
    ['policy', 'critic', 'reward', 'engine']
"""

from dataclasses import dataclass

from hpt_megatron.config.algorithm import needs_reference, trains_critic
from hpt_megatron.config.run import RunConfig


@dataclass(frozen=True)
class Role:
    """One model of a run."""

    name: str
    trained: bool
    vocabulary: bool  # a head over tokens; without it one number per token


POLICY, REFERENCE, CRITIC = Role("policy", True, True), Role("reference", False, True), Role("critic", True, False)
REWARD, ENGINE = Role("reward", False, False), Role("engine", False, True)


def roles_of(run: RunConfig) -> list[Role]:
    """The models of a run, in the order in which they are built."""
    algorithm = run.algorithm
    found = [POLICY]
    if needs_reference(algorithm):
        found.append(REFERENCE)
    if trains_critic(algorithm):
        found.append(CRITIC)
    found += [Role(f"reward_{number + 1}", False, False) for number in range(len(run.reward.learned.runs))]
    return [*found, REWARD, ENGINE]


def trainer_roles(run: RunConfig) -> list[Role]:
    """Those that live in trainer processes."""
    return [role for role in roles_of(run) if role not in (REWARD, ENGINE)]
