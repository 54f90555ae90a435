"""What a run records beside its keys: marks of all that decides which tokens and pixels it works with.

Two runs whose marks differ do not have the same prompts, images or distribution, whatever their keys are. Trainer and
engine have one set of marks, for the images that both see are of the same size before either looks at them.

Example: marks_of(chat, rules, forbidden)["chat"]
"""

import hashlib
from collections.abc import Iterable

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules


def marks_of(chat: Chat, rules: PictureRules, forbidden: Iterable[int]) -> dict[str, str]:
    """`pictures`: how images become patches; `chat`: tokenizer and template; `forbidden`: ids never sampled."""
    never = " ".join(map(str, sorted(forbidden)))
    return {
        "pictures": rules.fingerprint,
        "chat": chat.fingerprint,
        "forbidden": hashlib.sha256(never.encode()).hexdigest()[:16],
    }
