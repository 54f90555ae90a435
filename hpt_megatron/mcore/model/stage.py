"""The trainer's model: megatron-core's decoder with the vision tower before it and a head behind it, as one module.

    first stage   embedding, and the tower whose output takes the place of image tokens
    every stage   its layers
    last stage    the head: log-probs over the vocabulary, or one number per token

Invariants
    1. Names are `embedding.*`, `decoder.*`, `output_layer.*`, `visual.*`, `head.*`, as in the weight table.
    2. Full logits exist nowhere in training: the head is asked for labels, and works in chunks. Only comparisons of
       small inputs ask for `logits`.
    3. Weights of the head are read inside a module's forward, so that a parameter whose gathering overlaps with
       computation has arrived.

Example: `model(pack)` answers hidden states on every stage but the last, and there what the head says.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding
from megatron.core.models.common.language_module.language_module import LanguageModule
from megatron.core.transformer.enums import ModelType
from megatron.core.transformer.transformer_block import TransformerBlock
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import ensure_metadata_has_dp_cp_group
from torch import Tensor

from hpt_megatron.config.model import ModelConfig
from hpt_megatron.mcore.model.layer_spec import decoder_spec
from hpt_megatron.mcore.model.log_probs import Sampling, full_logits, log_probs
from hpt_megatron.mcore.model.rotary import Rotary
from hpt_megatron.mcore.model.scalar_head import ScalarHead
from hpt_megatron.mcore.model.vision import build_tower, see
from hpt_megatron.mcore.packing.pack import Pack

Head = Literal["tokens", "scalar", "both"]
"""Log-probs over the vocabulary, numbers, or, where policy and critic share a trunk, both."""
Want = Literal["logp", "entropy", "logits"]


@dataclass(frozen=True)
class Stage:
    """Which part of the pipeline a module is."""

    first: bool = True
    last: bool = True
    virtual: int | None = None


@dataclass(frozen=True)
class Said:
    """What the head of the last stage answers, one entry per slot of the pack; what was not asked for is None.

    `value` is [n], or [n, numbers] of a head with several.
    """

    logp: Tensor | None = None
    entropy: Tensor | None = None
    value: Tensor | None = None
    logits: Tensor | None = None

    def column(self, name: str) -> Tensor:
        """One number per slot: `logp`, `entropy`, `value`, or `value_K` of a head with several."""
        kind, _, number = name.partition("_")
        found = getattr(self, kind)
        return found[:, int(number)] if number else found


class TokenHead(tensor_parallel.ColumnParallelLinear):
    """The output matrix, asked for the log-probs of labels instead of logits."""

    def forward(  # type: ignore[override]
        self, hidden: Tensor, labels: Tensor, how: Sampling, want: Want, weight: Tensor | None
    ) -> Said:
        weight = self.weight if weight is None else weight
        if want == "logits":
            return Said(logits=full_logits(hidden, weight, how))
        logp, entropy = log_probs(hidden, weight, labels, how, want == "entropy")
        return Said(logp=logp, entropy=entropy)


class Model(LanguageModule):
    """One stage of the model."""

    def __init__(
        self,
        config: TransformerConfig,
        model: ModelConfig,
        padded_vocabulary: int,
        stage: Stage,
        head: Head = "tokens",
        numbers: int = 1,
    ) -> None:
        super().__init__(config=config)
        self.pre_process, self.post_process, self.vp_stage = stage.first, stage.last, stage.virtual
        self.model_type = ModelType.encoder_or_decoder
        self.share_embeddings_and_output_weights = model.tie_word_embeddings and head != "scalar"
        self.mtp_process = False  # megatron-core asks for it
        self.rotary = Rotary.of(model)
        if self.pre_process:
            self.embedding = LanguageModelEmbedding(
                config=config,
                vocab_size=padded_vocabulary,
                max_sequence_length=model.max_position_embeddings,
                position_embedding_type="none",
            )
        self.visual: torch.nn.Module | None = None
        if self.pre_process and model.vision is not None:
            on = torch.device("cpu") if config.use_cpu_initialization else torch.cuda.current_device()
            inside = torch.empty(0).device.type  # "meta" inside a `torch.device("meta")`
            self.visual = build_tower(model.vision, config.params_dtype, "meta" if inside == "meta" else on)
            if config.recompute_granularity == "full":
                # Not re-entrant: each parameter's gradient must arrive once, for reductions that overlap with backward.
                self.visual.gradient_checkpointing_enable({"use_reentrant": False})
        self.decoder = TransformerBlock(
            config=config,
            spec=decoder_spec(config, stage.virtual),
            pre_process=self.pre_process,
            post_process=self.post_process,
            vp_stage=stage.virtual,
        )
        if self.post_process:
            self._build_head(config, padded_vocabulary, head, numbers)
        if head != "scalar":
            self.setup_embeddings_and_output_layer()

    def _build_head(self, config: TransformerConfig, padded_vocabulary: int, head: Head, numbers: int) -> None:
        self.head = None if head == "tokens" else ScalarHead(config, numbers)
        self.output_layer = None
        if head != "scalar":
            self.output_layer = TokenHead(
                config.hidden_size,
                padded_vocabulary,
                config=config,
                init_method=config.init_method,
                bias=False,
                skip_weight_param_allocation=self.pre_process and self.share_embeddings_and_output_weights,
            )

    def set_input_tensor(self, tensors: Any) -> None:
        """What the schedule hands over from the stage before."""
        self.decoder.set_input_tensor(tensors[0] if isinstance(tensors, list) else tensors)

    def forward(self, pack: Pack, how: Sampling | None = None, want: Want = "logp") -> Tensor | Said:
        """Hidden states, or on the last stage what the head says about the pack's slots."""
        hidden = self._embed(pack) if self.pre_process else None
        hidden = self.decoder(
            hidden_states=hidden,
            attention_mask=None,
            rotary_pos_emb=self.rotary.angles(pack.positions),
            packed_seq_params=pack.sequences,
        )
        if not self.post_process:
            return hidden
        value = None if self.head is None else self._numbers(self.head, hidden, pack)
        if self.output_layer is None:
            return Said(value=value)
        if self.config.sequence_parallel:
            hidden = tensor_parallel.gather_from_sequence_parallel_region(hidden, tensor_parallel_output_grad=True)
        weight = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        scored = hidden[:, 0].index_select(0, pack.slots)
        watch(scored, pack)
        said: Said = self.output_layer(scored, pack.labels, how, want, weight)
        return replace(said, value=value)

    def _numbers(self, head: ScalarHead, hidden: Tensor, pack: Pack) -> Tensor:
        numbers = head(hidden)
        if self.config.sequence_parallel:
            numbers = tensor_parallel.gather_from_sequence_parallel_region(numbers, tensor_parallel_output_grad=False)
        said: Tensor = numbers.flatten(0, 1)[pack.slots]
        said = said.squeeze(-1) if said.shape[-1] == 1 else said
        watch(said, pack)
        return said

    def sharded_state_dict(self, prefix: str = "", sharded_offsets: Any = (), metadata: Any = None) -> Any:
        """For checkpoints. Megatron-core's own looks for an output matrix, which a scalar head has not."""
        without = self.post_process and self.output_layer is None
        above: Any = super(LanguageModule, self) if without else super()
        return above.sharded_state_dict(prefix, sharded_offsets, ensure_metadata_has_dp_cp_group(metadata))

    def _embed(self, pack: Pack) -> Tensor:
        """[T / cp / tp, 1, H] embeddings of this rank's tokens, images in their places."""
        hidden: Tensor = self.embedding(input_ids=pack.ids, position_ids=None)
        if self.visual is None or pack.pictures is None:
            return hidden
        seen = see(self.visual, pack.pictures, parallel_state.get_tensor_and_context_parallel_group())
        return hidden.index_copy(0, pack.pictures.slots, seen[:, None, :].to(hidden.dtype))


def watch(scored: Tensor, pack: Pack) -> None:
    """Notes for which slots the gradient that leaves the head is no number; [n] or [n, H]."""

    def look(gradient: Tensor) -> None:
        finite = torch.isfinite(gradient)
        pack.odd.append(~(finite.all(-1) if finite.dim() > 1 else finite))

    if scored.requires_grad:
        scored.register_hook(look)


def stages_here(pp: int, vpp: int) -> list[Stage]:
    """The stages that this process holds, in the order of the model."""
    rank = parallel_state.get_pipeline_model_parallel_rank()
    virtual: list[int | None] = list(range(vpp)) if vpp > 1 else [None]
    return [
        Stage(
            first=rank == 0 and not number,
            last=rank == pp - 1 and (number is None or number == vpp - 1),
            virtual=number,
        )
        for number in virtual
    ]
