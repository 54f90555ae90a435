"""Who takes part in a run, on which devices, and what each holds there: the table that a run shows before it starts.

    policy     4 processes on devices 0-3   0.42 GiB each: parameters 0.05, gradients 0.11, ...
    engine     2 processes on devices 4, 5  ...

Decision: places come from the placement, bytes from the planner, on the fullest stage and before any activation.
Nothing is measured or estimated here.
"""

from collections.abc import Sequence

from hpt_megatron.config.algorithm import scores_rows, trains_critic
from hpt_megatron.config.geometry import trunk_parameters
from hpt_megatron.config.run import RunConfig
from hpt_megatron.driver.ray.placement import plan_for
from hpt_megatron.planning.answer import GIB, default_devices
from hpt_megatron.planning.memory import holdings
from hpt_megatron.planning.workload import Workload


def roles_table(run: RunConfig, generates: bool) -> list[str]:
    """One line for each role that holds something, and one for a head that says numbers."""
    plan = plan_for(run, generates)
    held = {one.role: one for one in holdings(run, default_devices(run).device, Workload.of(run))}
    engines = [device for one in plan.engines for device in one]
    lines = []
    for name, one in held.items():
        judges = plan.judges if name.startswith("reward_") else ()
        devices = engines if name == "engine" else judges or plan.trainer
        if not one.terms or not devices:
            continue
        parts = ", ".join(f"{term.name} {term.bytes / GIB:.2f}" for term in one.terms)
        lines.append(f"{name:<10} {_devices(devices):<14} {one.bytes / GIB:6.2f} GiB on each: {parts}")
    return [*lines, *_head_of(run)]


def _head_of(run: RunConfig) -> list[str]:
    """Of a reward model or a critic, which share the form."""
    if scores_rows(run.algorithm):
        name, numbers = "reward", max(1, len(run.algorithm.preference.heads))
    elif trains_critic(run.algorithm):
        name, numbers = "critic", 1
    else:
        return []
    head = numbers * (run.model.hidden_size + 1)
    said = f"a head of {head:,}, linear to {numbers}"
    if run.algorithm.share_critic:
        return [f"{name:<10} {said}, on the policy's trunk, beside the one over the vocabulary"]
    return [f"{name:<10} {trunk_parameters(run.model):,} parameters and {said}, in place of one over the vocabulary"]


def _devices(numbers: Sequence[int]) -> str:
    """
    >>> _devices([0, 1, 2, 3]), _devices([4])
    ('devices 0-3', 'device 4')
    """
    return f"devices {numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"device {numbers[0]}"
