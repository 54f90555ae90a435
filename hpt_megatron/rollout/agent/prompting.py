"""From a row of data to the prompt that a policy gets, and to the demonstration behind the same prompt.

Decision: the data's own rules make the ids (`data/prompts.py:make_prompt`); the agent adds its instruction to the
user's words before that, and shows images as views. Rollouts and demonstrations come through here, so both have the
same prompt.

Example: Prompting(chat, viewer, prompt_rules(run.data), instruction).made(record).ids
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.prompts import Prompt, PromptRules, make_prompt
from hpt_megatron.data.record import Record, Source
from hpt_megatron.rollout.agent.modes import instructed
from hpt_megatron.rollout.agent.views import View, Viewer


@dataclass(frozen=True)
class Prompting:
    """Images have one size in prompts, observations and demonstrations: the viewer's, which are the data's limits."""

    chat: Chat
    viewer: Viewer
    own: PromptRules = PromptRules(longest=1 << 30)  # noqa: RUF009  (frozen)
    instruction: str = ""

    def made(self, record: Record) -> Prompt:
        """The prompt with its instruction, and the target's ids behind it."""
        told = replace(record, prompt=instructed(record.prompt, self.instruction))
        least, most = self.viewer.min_pixels, self.viewer.max_pixels
        return make_prompt(told, self.chat, self.viewer.rules, replace(self.own, min_pixels=least, max_pixels=most))

    def views(self, sources: Iterable[Source]) -> tuple[View, ...]:
        """Images as they are shown; they belong to no page."""
        return tuple(self.viewer.view("", source) for source in sources)
