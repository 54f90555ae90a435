"""What an agent adds to the record of its run: marks of all that decides which tokens and pixels it works with, and
that no key of the run says.

Two runs whose marks differ do not have the same prompts, images or distribution, whatever their keys are.

Example: record_of(agent)["chat"]
"""

import hashlib

from hpt_megatron.rollout.agent.collect import Agent


def record_of(agent: Agent) -> dict[str, str]:
    """`pictures`: how images become patches; `chat`: tokenizer and template; `forbidden`: ids never sampled."""
    kit = agent.kit
    never = " ".join(map(str, sorted(kit.engine.forbidden)))
    return {
        "pictures": kit.viewer.rules.fingerprint,
        "chat": kit.chat.fingerprint,
        "forbidden": hashlib.sha256(never.encode()).hexdigest()[:16],
    }
