"""What a page is known by: its relative path without the extension of an image or a document.

The bare file name would not do: slides of two decks share it.

Example:
    >>> canonical("./deck/1024.jpg"), canonical("deck/v1.2")
    ('deck/1024', 'deck/v1.2')
"""

import re

EXTENSION = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|pdf)\Z", re.IGNORECASE)


def canonical(page: str) -> str:
    """The relative path without extension, parts divided by `/`."""
    parts = [part for part in page.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    return EXTENSION.sub("", "/".join(parts))
