"""`<bbox>[x1, y1, x2, y2]</bbox>`: a part of the last image, from its page at full resolution.

Example: [0, 28, 28, 56] on a page of 224 x 224 that is shown at 56 x 56 cuts out 112 x 112 pixels of the page.
"""

import asyncio

from hpt_megatron.errors import UserError
from hpt_megatron.rollout.agent.views import BadBoxError, box_of
from hpt_megatron.rollout.tools.tool import TOOLS, Equipment, Outcome, Scene


@TOOLS.add("bbox")
class Crop:
    """Looks closer."""

    def __init__(self, equipment: Equipment) -> None:
        self._viewer = equipment.viewer

    async def use(self, body: str, scene: Scene) -> Outcome:
        """Invalid where nothing was shown yet, or where the box shows nothing."""
        if not scene.views:
            return Outcome("invalid", why="no_view")
        try:
            view = await asyncio.to_thread(self._viewer.zoom, scene.views[-1], box_of(body))
        except (BadBoxError, UserError, ValueError, OverflowError) as error:
            return Outcome("invalid", why=str(error))
        return Outcome("shown", (view,))
