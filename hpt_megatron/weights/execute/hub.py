"""A folder of the hub as a conversion reads it: tensors by canonical name, each a view of its file."""

from pathlib import Path

from torch import Tensor

from hpt_megatron.config.checkpoint import model_of
from hpt_megatron.config.model import ModelConfig
from hpt_megatron.errors import UserError
from hpt_megatron.weights.carried import architectures, quantised
from hpt_megatron.weights.execute.mapped import Mapped, same_bytes
from hpt_megatron.weights.families import family_of
from hpt_megatron.weights.safetensors_file import Info
from hpt_megatron.weights.survey import briefly, contradictions, grouped, survey
from hpt_megatron.weights.table import COMPUTED, EMBED_TOKENS, LM_HEAD


class HubFolder:
    """What a folder holds; `problems` is everything that speaks against converting it."""

    kind = "hf"

    def __init__(self, path: str | Path) -> None:
        self.path, self.files = Path(path), Mapped()
        self.config: Path | None = self.path
        self.model: ModelConfig | None = None
        found = survey(self.path)
        self.infos: dict[str, Info] = found.infos
        self._where = found.where
        self.problems: list[str] = grouped(found.problems)
        try:
            self.model = model_of(self.path)
        except UserError as error:
            self.problems.insert(0, briefly(error))
        else:
            self.problems += self._strange_architectures()
            how = quantised(self.path)
            if how is not None:
                self.problems.append(f"is quantised ({how}): give the folder or the checkpoint that it was made of")
            elif not self.problems or self.infos:
                self.problems += contradictions(self.model, self.infos)
            self.problems += self._head_at_odds(self.model)
            self.infos = {name: info for name, info in self.infos.items() if not name.endswith(COMPUTED)}

    def _head_at_odds(self, model: ModelConfig) -> list[str]:
        """A tied model may carry its head as well; then it has to be the embedding's copy."""
        ours, theirs = self.infos.get(EMBED_TOKENS), self.infos.get(LM_HEAD)
        if not model.tie_word_embeddings or ours is None or theirs is None or ours.dtype != theirs.dtype:
            return []
        if ours.shape == theirs.shape and not same_bytes(self.tensor(EMBED_TOKENS), self.tensor(LM_HEAD)):
            return [f"config.json ties the embeddings, but {LM_HEAD} is not {EMBED_TOKENS}"]
        return []

    def _strange_architectures(self) -> list[str]:
        """One without a table, though its `model_type` is known: a classifier on a known model, say."""
        found = []
        for architecture in architectures(self.path):
            try:
                family_of(architecture)
            except UserError as error:
                found.append(f"config.json: {error.what}, {error.mend}")
        return found

    def tensor(self, name: str) -> Tensor:
        """One tensor."""
        path, _, start, _ = self._where[name]
        return self.files.tensor(path, start, self.infos[name])

    def layout(self) -> dict[str, int]:
        """Under which layout it was saved: none."""
        return {}
