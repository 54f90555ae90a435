"""What a tool is, and the tools by name.

    @TOOLS.add("calculator")                     the name is the tag: <calculator>1 + 2</calculator>
    class Calculator:
        def __init__(self, equipment: Equipment) -> None: ...
        async def use(self, body: str, scene: Scene) -> Outcome: ...

A new tool is such a file, named in `rollout.tools`; one that shows pages or text needs nothing else. Another package
adds one through the entry point group `hpt_megatron.tools`.

Invariants
    1. `use` answers for whatever a policy writes; what it cannot carry out is `invalid`, what failed outside is
       `failed`.
    2. It changes nothing of the trajectory: the driver appends what it answers, or not.
    3. All of them run on one event loop; what takes long on the processor goes to a thread.

Example: Outcome("shown", text="3")
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hpt_megatron.registry import Registry
from hpt_megatron.rollout.agent.views import View, Viewer


@dataclass(frozen=True)
class Scene:
    """What a tool may know of the trajectory."""

    views: tuple[View, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)  # of the row of data
    index: str = ""  # of that row
    pages: tuple[str, ...] = ()  # that tools have found, documents of text among them

    @property
    def seen(self) -> frozenset[str]:
        """Pages that were shown, and documents that were told."""
        return frozenset((*self.pages, *(view.page for view in self.views if view.page)))


@dataclass(frozen=True)
class Outcome:
    """What a tool answers: images, or a text where there are none. `pages` are those it found, crops are none."""

    kind: Literal["shown", "nothing", "invalid", "failed"]
    views: tuple[View, ...] = ()
    text: str = ""
    pages: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Equipment:
    """What tools are built from."""

    viewer: Viewer
    search: Any = None  # search/client.py:SearchClient
    images_per_search: int = 1


class Tool(Protocol):
    """One tool, for all trajectories."""

    def __init__(self, equipment: Equipment) -> None: ...

    async def use(self, body: str, scene: Scene) -> Outcome:
        """What comes of the body of its tag."""
        ...


TOOLS: Registry[type[Tool]] = Registry("tool", "hpt_megatron.tools")
