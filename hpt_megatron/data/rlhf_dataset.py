"""`RLHFDatasetWithTarget`, the name that the released code uses, as a thin face over `Prompts`.

What differs from there: names stay the same when rows go, what was removed is part of the state, `random_get` is
seeded and its items keep their own golds, and longer prompts are left out by their expanded length.

    item   input_ids, attention_mask (left-padded to max_prompt_length), tgt_input_ids (cut to max_prefix_len, then the
           end of the turn), index, item (the place), id, data_source, reward_model, extra_info, images

There are no position ids: around images they have three rows, and the trainer computes them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpt_megatron.data.chat import Chat
from hpt_megatron.data.pictures import PictureRules
from hpt_megatron.data.prompts import PromptRules, Prompts
from hpt_megatron.data.reading import read
from hpt_megatron.data.rows import row_of


class RLHFDatasetWithTarget:
    """Rows of parquet or JSON lines files with their targets, by place."""

    def __init__(
        self,
        files: str | Sequence[str],
        folder: str | Path,
        *,
        max_prompt_length: int = 1024,
        max_prefix_len: int = 8192,
        drop_system: bool = False,
    ) -> None:
        named = [files] if isinstance(files, str) else list(files)
        self.chat, self.max_prompt_length, self.max_prefix_len = Chat.open(folder), max_prompt_length, max_prefix_len
        own = PromptRules(longest=max_prompt_length, longest_target=max_prefix_len, drop_system=drop_system)
        self.prompts = Prompts.of(read(named).sound(), self.chat, PictureRules.of_folder(folder), own)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, item: int) -> dict[str, Any]:
        name = self.prompts.names[item]
        prompt, pad = self.prompts[name], self.chat.marks.endoftext
        missing = self.max_prompt_length - len(prompt.ids)
        said = list(prompt.target_ids)
        if len(said) > self.max_prefix_len:
            said = [*said[: self.max_prefix_len], self.chat.marks.im_end]
        row, extra = row_of(prompt.record), prompt.record.extra
        return {
            "input_ids": [pad] * missing + list(prompt.ids),
            "attention_mask": [0] * missing + [1] * len(prompt.ids),
            "tgt_input_ids": said,
            "index": name,
            "id": name,
            "item": item,
            "images": prompt.record.images,
            "target_lst": extra.get("target_lst"),
            "target_probs": extra.get("target_probs", extra.get("target_ds_qwen_7b_probs")),
            **{column: row[column] for column in ("data_source", "reward_model", "ability", "extra_info")},
        }

    def random_get(self, num: int, seed: int = 0) -> list[dict[str, Any]]:
        """Different rows by chance."""
        places = {name: item for item, name in enumerate(self.prompts.names)}
        return [self[places[prompt.index]] for prompt in self.prompts.random_get(num, seed)]

    def remove_data(self, indices: Sequence[int]) -> None:
        """Leaves out the rows at these places; those out of range are ignored."""
        self.prompts.remove_data(indices)
