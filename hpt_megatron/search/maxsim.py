"""How well a page fits a query when both are many vectors (ColBERT, ColQwen): for each word of the query the most
similar part of the page, added up. Padding on either side takes no part.

Example:
    >>> query, page = np.eye(2)[None], np.array([[[1.0, 0.0], [0.0, 0.5]]])
    >>> maxsim(query, page).tolist()
    [[1.5]]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def maxsim(
    queries: NDArray[Any],
    pages: NDArray[Any],
    query_mask: NDArray[Any] | None = None,
    page_mask: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """[Q, P] from [Q, words, size] and [P, parts, size]; masks are true where there is something."""
    alike = np.einsum("qwd,pnd->qpwn", queries, pages)
    if page_mask is not None:
        alike = np.where(page_mask.astype(bool)[None, :, None, :], alike, -np.inf)
    best = alike.max(-1, initial=-np.inf)
    best = np.where(np.isfinite(best), best, 0.0)  # a page of nothing but padding
    if query_mask is not None:
        best = np.where(query_mask.astype(bool)[:, None, :], best, 0.0)
    found: NDArray[Any] = best.sum(-1)
    return found
