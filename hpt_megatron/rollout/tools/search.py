"""`<search>words</search>`: the best pages that were not shown yet, or the documents found.

Decision: pages come in the order of the ranking, those already shown are passed over, and where none is left the policy
is told so. So it is with documents, as far as they have ids: one that was told is not told again. Nothing is kept from
one call to the next, so no page of one trajectory ever reaches another.

Invariants
    1. A page whose image cannot be read is passed over like one that was shown.
    2. A failed search is `failed`, never `nothing`.
    3. A document that is named as found was told: those that no longer fit into `LONGEST_TEXT` wait for another search.

Example: three hits, the first was shown before: the second is shown.
"""

import asyncio
from itertools import accumulate

from hpt_megatron.errors import UserError
from hpt_megatron.rollout.agent.observations import LONGEST_TEXT
from hpt_megatron.rollout.agent.views import View
from hpt_megatron.rollout.tools.tool import TOOLS, Equipment, Outcome, Scene
from hpt_megatron.search.hit import Hit, Query


def query_of(body: str, scene: Scene) -> Query:
    """The words; for a row that brings a deck, also which row it is, the deck's pages in order, and its name."""
    deck = scene.extra.get("deck") or scene.extra.get("document_images")
    if not isinstance(deck, list | tuple):
        return Query(body)
    row = scene.extra.get("row_index", scene.index)
    pages = tuple(map(str, deck))
    folders = {page.rpartition("/")[0] for page in pages}
    name = scene.extra.get("deck_name") or (folders.pop() if len(folders) == 1 else None)
    return Query(body, int(row) if str(row).isdecimal() else str(row), pages, str(name) if name else None)


@TOOLS.add("search")
class Search:
    """Asks the search service."""

    def __init__(self, equipment: Equipment) -> None:
        self._client, self._viewer = equipment.search, equipment.viewer
        self._most = equipment.images_per_search

    async def use(self, body: str, scene: Scene) -> Outcome:
        """New pages first; without any page, the text of the documents."""
        found = await self._client.search(query_of(body, scene))
        if found.failed:
            return Outcome("failed", why=found.failed)
        views: list[View] = []
        for hit in found.hits:
            if hit.image and hit.page not in scene.seen and all(hit.page != view.page for view in views):
                views += await asyncio.to_thread(self._view, hit)
            if len(views) == self._most:
                break
        if views:
            return Outcome("shown", tuple(views), pages=tuple(view.page for view in views))
        told = _fitting([hit for hit in found.hits if hit.text and not hit.image and hit.page not in scene.seen])
        if not told:
            return Outcome("nothing")
        return Outcome("shown", text="\n".join(hit.text for hit in told), pages=tuple(h.page for h in told if h.page))

    def _view(self, hit: Hit) -> list[View]:
        try:
            return [self._viewer.view(hit.page, self._client.source(hit))]
        except UserError:
            self._client.unreadable(hit)
            return []


def _fitting(hits: list[Hit]) -> list[Hit]:
    """The first ones whose texts are shown whole together, and the very first whatever its length."""
    ends = accumulate(len(hit.text) + 1 for hit in hits)  # a separator each
    return [hit for i, (hit, end) in enumerate(zip(hits, ends, strict=True)) if i == 0 or end - 1 <= LONGEST_TEXT]
