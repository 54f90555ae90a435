"""Who shows demonstrations: targets of the data as rows, behind the prompts that rollouts get.

Rows are made when they are wanted and kept for the next time, with their images, up to `MOST` of them.

Example: Teacher(run, folder).show([record], [0]).rows.tokens["trained"]
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from hpt_megatron.config.run import RunConfig
from hpt_megatron.data.build import prompt_rules
from hpt_megatron.data.chat import Chat
from hpt_megatron.data.record import Record
from hpt_megatron.driver.loop.rollouts import Keep, here
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.rollout.agent.build import viewer_of
from hpt_megatron.rollout.agent.modes import instruction_of, mode_of
from hpt_megatron.rollout.agent.prompting import Prompting
from hpt_megatron.rollout.to_rows import batch_of, demonstrations

MOST = 4096


class Teacher:
    """See the module; `keep` takes images out of the batch, to where they can be asked for."""

    def __init__(self, run: RunConfig, folder: str, keep: Keep = here) -> None:
        self.run, self.keep = run, keep
        mode = mode_of(run.rollout.agent, run.rollout.tools)
        instruction = instruction_of(mode, run.rollout.agent_prompt)
        chat, viewer = Chat.open(folder), viewer_of(run, folder)
        self.prompting = Prompting(chat, viewer, prompt_rules(run.data), instruction)
        self._made: OrderedDict[tuple[Any, ...], Batch] = OrderedDict()

    def show(self, records: Sequence[Record], places: Sequence[int]) -> Batch:
        """One row for each record whose target can be shown, in order, with the place of its prompt."""
        shown: list[Batch] = []
        for record, place in zip(records, places, strict=True):
            made = self._row(record)
            if made.rows.num_rows:
                shown.append(made.with_rows(made.rows.with_fields(prompt=torch.tensor([place]))))
        return Batch.concat(shown) if shown else batch_of([], self.prompting.viewer.rules)

    def _row(self, record: Record) -> Batch:
        key = record.demonstrated
        if key not in self._made:
            made = demonstrations([record], [0], self.prompting, self.run.data.max_prefix_len).batch
            self._made[key] = Batch(made.rows, self.keep(made.images), made.shown, made.counts)
            if len(self._made) > MOST:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]
