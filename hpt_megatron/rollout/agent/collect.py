"""Trajectories of many prompts: encode, drive, and say of each group when it is complete.

    agent = Agent(kit, client, driver="async")
    groups = agent.collect(tasks, sampling, samples=8, step=3, on_group=score)

Invariants
    1. Both drivers give the same trajectories for the same seeds, where engine and search service do.
    2. Groups come back in the order of the tasks, trajectories in the order of their samples.
    3. `on_group` runs in a thread; what it raises ends the collection, and is what `collect` raises.
    4. Prompts are told apart by their ids, so no id comes twice.
    5. Where too many searches of the step failed, `RetrieverUnavailable` is raised when all trajectories have ended.

Example: groups[0][3].ids
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal

from hpt_megatron.algorithms.prefix import PrefixSettings, plan_counts
from hpt_megatron.data.record import Record
from hpt_megatron.errors import UserError
from hpt_megatron.rollout.agent import concurrent, lockstep
from hpt_megatron.rollout.agent.episode import Episode, Kit, encoded
from hpt_megatron.rollout.engine.role import Sampling
from hpt_megatron.rollout.loop_thread import LoopThread
from hpt_megatron.rollout.search.client import SearchClient
from hpt_megatron.rollout.trajectory import Trajectory

Group = list[Trajectory]
OnGroup = Callable[[str, Group], None]
Driver = Literal["async", "lockstep"]
NO_PREFIX = PrefixSettings()
DRIVERS = {"async": concurrent.drive, "lockstep": lockstep.drive}


class Agent:
    """Owns the event loop on which everything of a rollout runs."""

    def __init__(self, kit: Kit, client: SearchClient | None = None, driver: Driver = "async") -> None:
        self.kit, self.client, self._drive = kit, client, DRIVERS[driver]
        self._loop = LoopThread("agent")
        self.prefix_counts: dict[str, int] = {}
        """What the last collection gave of demonstrations (`prefix.py:plan_counts`); empty where it gave none."""

    def probe(self) -> None:
        """Refuses to start without its search service, unless the run may."""
        if self.client is not None:
            self._loop.run(self.client.probe())

    def collect(
        self,
        tasks: Sequence[tuple[str, Record]],
        sampling: Sampling,
        samples: int,
        step: int = 0,
        on_group: OnGroup | None = None,
        prefix: PrefixSettings = NO_PREFIX,
    ) -> list[Group]:
        """`samples` trajectories of each task, which is an id and a row of data; `prefix`: what they go on from."""
        if prefix.n_prefix and self.kit.mode.actions:
            raise UserError("a prefix is the start of a single response", where="n_prefix", mend="agent=single_turn")
        twice = [uid for uid, count in Counter(uid for uid, _ in tasks).items() if count > 1]
        if twice:
            what = f"{len(twice)} ids of prompts come more than once, the first is {twice[0]}"
            raise UserError(what, where="tasks", mend="an id of its own for each prompt of a step")
        if self.client is not None:
            self.client.begin_step()
        groups = self._loop.run(self._collected(tasks, sampling, samples, step, on_group, prefix))
        if self.client is not None:
            self.client.check_budget()
        return groups

    async def _collected(
        self,
        tasks: Sequence[tuple[str, Record]],
        sampling: Sampling,
        samples: int,
        step: int,
        on_group: OnGroup | None,
        prefix: PrefixSettings,
    ) -> list[Group]:
        starts = await asyncio.gather(*(asyncio.to_thread(encoded, self.kit, uid, record) for uid, record in tasks))
        longest = self.kit.rules.max_response_tokens
        plans = [start.plan(prefix, step, samples, longest) for start in starts]
        readable = [plan for start, plan in zip(starts, plans, strict=True) if not start.problem]
        self.prefix_counts = plan_counts(readable) if prefix.n_prefix else {}
        groups = [
            [Episode(self.kit, start, row.sample, sampling, step, row) for row in plan.rows]
            for start, plan in zip(starts, plans, strict=True)
        ]
        done: list[Group] = [[] for _ in groups]

        async def finished(number: int) -> None:
            done[number] = [episode.freeze() for episode in groups[number]]
            if on_group is not None:
                await asyncio.to_thread(on_group, tasks[number][0], done[number])

        await self._drive(groups, finished)
        return done

    def close(self) -> None:
        """Ends the loop and gives connections back."""
        for part in (self.client, self.kit.generator):
            if part is not None:
                self._loop.run(part.close())
        self._loop.close()

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
