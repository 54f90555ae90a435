"""Every component of this package that stands alone, in `COMPONENTS` under its name once this module is imported.

`tool_use` asks another one by its name, so it imports this module and is not part of it. A worker that loads `tool_use`
therefore knows the others too.

Example:
    >>> from hpt_megatron.rewards.component import COMPONENTS
    >>> "math" in COMPONENTS.names()
    True
"""

from hpt_megatron.rewards import (  # noqa: F401  (they name themselves)
    answers,
    code_answers,
    extent,
    keywords,
    llm_judge,
    mathematics,
    retrieval,
    text,
    turns,
)
