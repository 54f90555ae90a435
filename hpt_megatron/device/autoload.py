"""Called by torch on import."""


def register() -> None:
    """Placeholder until the device layer lands in the next commit."""
