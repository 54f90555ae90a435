"""One process of the trainer, as a plain class: what a loop in one process calls, and what Ray wraps in an actor.

    worker = MegatronWorker(run)
    worker.start()                         process groups of the layout, model, weights, optimizer
    parts = worker.split(batch)            this data-parallel rank's micro-batches; or the driver plans and sends them
    worker.log_probs(parts)                per token, under the weights as they are
    worker.update(parts, components)       one optimizer step
    worker.save(folder); worker.restore(folder)
    worker.meet(session); worker.send(ALL) give the weights to engines
    worker.offload(); worker.onload()      make room for the engine, and take it back

Invariants
    1. Every process of a layout calls the same methods in the same order; each method is one collective operation.
    2. A step that is refused or skipped leaves weights, moments, counts and random states as they were.
    3. What comes out does not depend on how rows were split, packed or ordered, but for the order of sums.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from hpt_megatron.algorithms.objective.part import Component
from hpt_megatron.config.geometry import padded_vocab_size
from hpt_megatron.config.run import RunConfig
from hpt_megatron.errors import HptError, UserError
from hpt_megatron.layout.micro_batches import split
from hpt_megatron.mcore.agree import agree_on_rows, any_process, everything_said, first_few
from hpt_megatron.mcore.held import Held
from hpt_megatron.mcore.initialize import Rendezvous, finalize, initialize
from hpt_megatron.mcore.model.freeze import freeze
from hpt_megatron.mcore.model.log_probs import Sampling
from hpt_megatron.mcore.model.named import fill, gradients_whole, mark_cut, parameters_of, whole
from hpt_megatron.mcore.model.scalar_head import last_tokens
from hpt_megatron.mcore.model.stage import Head, Model, Said, Want, stages_here
from hpt_megatron.mcore.model.transformer_config import DTYPES, decoder_config
from hpt_megatron.mcore.packing.pack import Pack, build_packs
from hpt_megatron.mcore.packing.positions import Placeholders
from hpt_megatron.mcore.packing.problems import loss_problems, problems_of
from hpt_megatron.mcore.packing.sequences import Place
from hpt_megatron.mcore.publishing import open_sender
from hpt_megatron.mcore.step.learning_rate import Schedule, learning_rate
from hpt_megatron.mcore.step.objective import reads_own, scored_tokens, total_loss, wanted_of, weighted_tokens
from hpt_megatron.mcore.step.offload import at_hand, moments_out
from hpt_megatron.mcore.step.optimizer import build_optimizer, take_step, wrap
from hpt_megatron.mcore.step.report import bad_rows, moved, no_numbers, sum_up
from hpt_megatron.mcore.step.schedule import run_schedule
from hpt_megatron.protocol.batch import Batch
from hpt_megatron.protocol.step_report import StepReport
from hpt_megatron.weights.frozen import frozen, trainable
from hpt_megatron.weights.hf_folder import HfFolder
from hpt_megatron.weights.publish.sender import Sender
from hpt_megatron.weights.publish.session import Session
from hpt_megatron.weights.table import Table

logger = logging.getLogger(__name__)


class MegatronWorker(Held):
    """One process; see the module."""

    def __init__(
        self, run: RunConfig, head: Head = "tokens", train: bool = True, forbidden: tuple[int, ...] = ()
    ) -> None:
        super().__init__(run, head)
        self.train = train
        self.holders = Placeholders.of(run.model)
        # Never sampled: the engine's list (`VllmEngine.forbidden`), or what stands for images alone.
        self.forbidden = forbidden or ((self.holders.image, self.holders.video) if self.holders else ())
        self.sender: Sender | None = None

    @property
    def numbers(self) -> int:
        """How many a scalar head says: one of a critic, one for each head of a reward model."""
        return len(self.run.algorithm.preference.heads) or 1

    def start(self, where: Rendezvous | None = None, timeout_s: float = 600) -> None:
        """Joins the others, builds this process's stages and fills them from the checkpoint that the run names."""
        layout, trainer, model = self.run.layout, self.run.trainer, self.run.model
        vpp = layout.vpp if layout.vpp > 1 else None
        initialize(layout.tp, layout.pp, layout.cp, vpp, seed=trainer.seed, where=where, timeout_s=timeout_s)
        self.table = Table.of(model, layout.tp, layout.vocab_multiple)
        self.config = decoder_config(model, layout, DTYPES[trainer.dtype], trainer.recompute)
        padded = padded_vocab_size(model.vocab_size, layout.vocab_multiple, layout.tp)
        self.models = [
            Model(self.config, model, padded, stage, self.head, self.numbers)
            for stage in stages_here(layout.pp, layout.vpp)
        ]
        mark_cut(self.models, self.table)
        if model.path is not None:
            self._load(model.path)
        if self.train:
            self._prepare_training()

    def _load(self, path: str) -> None:
        with HfFolder(path) as folder:
            problems = fill(self.models, self.table, folder)
        if any_process(bool(problems)):
            told = first_few(everything_said(problems))
            raise UserError(told, where=path, mend="is it the checkpoint of this model?")

    def _prepare_training(self) -> None:
        trainer, model = self.run.trainer, self.run.model
        if trainer.freeze:
            entries = self.table.entries(self._tower_names())
            self.frozen = frozen(trainer.freeze, entries, model.tie_word_embeddings)
            freeze(parameters_of(self.models), self.frozen)
            left, all_tensors = len(trainable(entries, self.frozen)), len(trainable(entries, set()))
            if not left and self.head != "scalar":
                raise UserError("leaves nothing to train", where="trainer.freeze", mend="freeze less")
            if dist.get_rank() == 0:
                logger.warning("frozen: %d of %d tensors, by %s", all_tensors - left, all_tensors, trainer.freeze)
        self.models = wrap(self.models, self.config, trainer)
        self.optimizer = build_optimizer(self.models, self.config, trainer)
        if trainer.optimizer_offload:
            moments_out(self.optimizer)

    def _tower_names(self) -> list[str]:
        """The tower's names on every stage; only the first holds the tower."""
        own = [name for name, _ in parameters_of(self.models) if name.startswith("visual.")]
        told = [own]
        dist.broadcast_object_list(told, src=0)
        return told[0]

    @property
    def place(self) -> Place:
        """This process among those that share a pack."""
        layout = self.run.layout
        return Place(
            layout.tp,
            layout.cp,
            parallel_state.get_tensor_model_parallel_rank(),
            parallel_state.get_context_parallel_rank(),
        )

    @property
    def replica(self) -> int:
        """Which of the data-parallel replicas this process belongs to."""
        return int(parallel_state.get_data_parallel_rank())

    @property
    def speaks(self) -> bool:
        """Whether this process is the one that answers for its stage, whose others hold the same."""
        first = parallel_state.get_tensor_model_parallel_rank() == 0
        return first and parallel_state.get_data_parallel_rank(with_context_parallel=True) == 0

    def sampling(self) -> Sampling:
        """What the run's rollouts are drawn from."""
        return Sampling(
            vocab_size=self.run.model.vocab_size,
            temperature=self.run.rollout.temperature,
            forbidden=self.forbidden,
            group=parallel_state.get_tensor_model_parallel_group(),
        )

    def split(self, batch: Batch) -> list[Batch]:
        """This data-parallel rank's micro-batches of a batch that all processes have; others plan the same."""
        agree_on_rows(self._problems(batch), micro_batches=0, multiple=1)
        return split(batch, self.run)[self.replica]

    def update(
        self, parts: Sequence[Batch], components: Sequence[Component], how: Sampling | None = None
    ) -> StepReport:
        """One optimizer step over micro-batches whose weights are normalised."""
        report = self.accumulate(parts, components, how)
        trainer = self.run.trainer
        rate = learning_rate(self.steps, self._schedule())
        with at_hand(self.optimizer, trainer.optimizer_offload):
            step = take_step(self.optimizer, rate, trainer.clip_grad, trainer.max_grad_norm, report.skipped)
        self.steps += not step.skipped
        self.skipped += bool(step.skipped)
        if step.skipped and dist.get_rank() == 0:
            logger.warning("step skipped: %s", step.skipped)
        return moved(report, step, rate)

    def _schedule(self) -> Schedule:
        """In optimizer steps, of which a step of the run may have several; a policy may begin after its critic."""
        trainer, each = self.run.trainer, self.run.updates_per_step
        late = 0 if self.head == "scalar" else trainer.critic_warmup
        total = None if trainer.total_training_steps is None else max(1, trainer.total_training_steps - late) * each
        return Schedule(trainer.lr_schedule, trainer.lr, trainer.lr_warmup_steps * each, total, trainer.lr_floor)

    def accumulate(
        self, parts: Sequence[Batch], components: Sequence[Component], how: Sampling | None = None
    ) -> StepReport:
        """Forward and backward over all micro-batches; gradients are whole and summed afterwards, nothing has moved."""
        if self.optimizer is None:
            raise HptError("this worker was started without an optimizer", mend="start it with train=True")
        self._at_home()
        how = how or self.sampling()
        wanted = [weighted_tokens(part.rows.tokens) for part in parts]
        pairs = zip(parts, wanted, strict=True)
        unfit = [line for part, mask in pairs for line in loss_problems(part, mask, how.forbidden, components)]
        self._agree(parts, unfit)
        packs = build_packs(parts, wanted, self.place, self.holders, self.run.layout.pp, reads_own(components))
        for model in self.models:
            model.zero_grad_buffer()
        self.optimizer.zero_grad()
        group = parallel_state.get_context_parallel_group()

        def finish(pack: Pack, said: Said) -> tuple[Tensor, Any]:
            loss, losses, metrics = total_loss(pack, said, components, group)
            return loss, (losses, metrics, bad_rows(pack, said, loss))

        kept = run_schedule(self.models, packs, finish, how, wanted_of(components), train=True)
        found = no_numbers(parts, packs, [bad for _, _, bad in kept])
        problem = ""
        if any_process(bool(found)):
            problem = f"not a number: {first_few(everything_said(found))}"
        return sum_up([(losses, metrics) for losses, metrics, _ in kept], problem)

    def log_probs(
        self,
        parts: Sequence[Batch],
        how: Sampling | None = None,
        with_entropy: bool = False,
        wanted: Sequence[Tensor] | None = None,
    ) -> list[dict[str, Tensor]]:
        """`logp` (and `entropy`) of tokens of the parts, 0 elsewhere and at each row's first.

        Of those that are `trained` where the rows say so, else of all that can be sampled; or of those `wanted`.
        """
        how = how or self.sampling()
        if wanted is None:
            wanted = [scored_tokens(part.rows.tokens, how.forbidden) for part in parts]
        return self._evaluate(parts, how, "entropy" if with_entropy else "logp", wanted)

    @torch.no_grad()
    def logits(self, parts: Sequence[Batch], how: Sampling) -> list[tuple[Tensor, Tensor]]:
        """Of each part the tokens that this process scored, and what each was drawn from: [n] and [n, vocabulary].

        To compare small inputs; only processes of the last stage have any.
        """
        self._at_home()
        packs = build_packs(parts, every_token(parts), self.place, self.holders, self.run.layout.pp)
        kept = run_schedule(self.models, packs, keep_all, how, "logits", train=False)
        return [(token.cpu(), said.logits.cpu()) for token, said in kept]

    def values(self, parts: Sequence[Batch]) -> list[Tensor]:
        """What a scalar head says before every token of the parts; 0 at each row's first."""
        self._must_say_numbers()
        said = self._evaluate(parts, self.sampling(), "logp", every_token(parts), fields=("value",))
        return [answer["value"] for answer in said]

    def scores(self, parts: Sequence[Batch]) -> list[Tensor]:
        """[rows, numbers] of the parts: what a scalar head says once it has read the last token of a response."""
        self._must_say_numbers()
        ends = [last_tokens(part.rows) for part in parts]
        fields = [f"value_{number}" for number in range(self.numbers)] if self.numbers > 1 else ["value"]
        wanted = [marked(end, part.rows.num_tokens) for end, part in zip(ends, parts, strict=True)]
        said = self._evaluate(parts, self.sampling(), "logp", wanted, own=True, fields=fields)
        return [torch.stack([answer[name][end] for name in fields], -1) for answer, end in zip(said, ends, strict=True)]

    def _must_say_numbers(self) -> None:
        if self.head == "tokens":
            raise HptError("this worker has a head over tokens, not one for values", mend='start it with head="scalar"')

    @torch.no_grad()
    def _evaluate(
        self,
        parts: Sequence[Batch],
        how: Sampling,
        want: Want,
        wanted: Sequence[Tensor],
        own: bool = False,
        fields: Sequence[str] = (),
    ) -> list[dict[str, Tensor]]:
        self._at_home()
        self._agree(parts)
        packs = build_packs(parts, wanted, self.place, self.holders, self.run.layout.pp, own)

        kept = run_schedule(self.models, packs, keep_all, how, want, train=False)
        fields = fields or ["logp", *(["entropy"] if want == "entropy" else [])]
        sizes = [part.rows.num_tokens for part in parts]
        answer = torch.zeros(len(fields), sum(sizes), device="cuda")
        for (token, said), start in zip(kept, accumulate([0, *sizes]), strict=False):  # or nothing was said here
            for line, name in enumerate(fields):
                answer[line, token + start] = said.column(name).float()
        if self.run.layout.cp > 1:  # each token is on one of the ranks, and 0 on the others
            dist.all_reduce(answer, group=parallel_state.get_context_parallel_group())
        if self.run.layout.pp > 1:
            last = parallel_state.get_pipeline_model_parallel_last_rank()
            dist.broadcast(answer, src=last, group=parallel_state.get_pipeline_model_parallel_group())
        by_part = torch.split(answer.cpu(), sizes, 1)
        return [dict(zip(fields, of_part, strict=True)) for of_part in by_part]

    def _problems(self, batch: Batch) -> list[str]:
        longest = self.run.trainer.ppo_max_token_len_per_gpu * self.run.layout.cp
        return problems_of(batch, self.holders, longest, self.run.model.vocab_size)

    def _agree(self, parts: Sequence[Batch], more: Sequence[str] = ()) -> None:
        """Bad rows are refused by all processes alike, before anything is computed."""
        layout = self.run.layout
        found = [line for part in parts for line in self._problems(part)]
        agree_on_rows([*found, *more], len(parts), layout.pp if layout.vpp > 1 else 1)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor of the checkpoint that this stage holds, whole, by its name; all ranks of a stage go along."""
        self._at_home(but_for="gradients")
        self._arrived()
        for name, param in parameters_of(self.models):
            if not (self.table.model.tie_word_embeddings and name == "output_layer.weight"):
                yield from whole(name, param.detach(), self.table)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """The summed gradients after `accumulate`, in the same form; frozen parameters have none."""
        gradients_whole(self.models)
        for name, param in parameters_of(self.models):
            if param.requires_grad and not (self.table.model.tie_word_embeddings and name == "output_layer.weight"):
                yield from whole(name, param.main_grad, self.table)

    def meet(self, session: Session) -> None:
        """Opens a session with engines, which must come to meet it."""
        self.leave()
        self.sender = open_sender(self.run, self.models, session)
        self.sender.meet()

    def send(self, which: str) -> Counter[int]:
        """Sends what a plan of the session asks of this process; answers bytes by rank of the engines."""
        self._at_home(but_for="gradients")
        self._arrived()
        if self.sender is None:
            raise HptError("no session with an engine is open", mend="call meet() first")
        return self.sender.send(which)

    def leave(self) -> None:
        """Ends the session with the engines, if there is one."""
        if self.sender is not None:
            self.sender.close()
        self.sender = None

    def digest(self) -> dict[str, str]:
        """SHA-256 of every tensor of the checkpoint that this stage holds."""
        return {
            # Of a copy: a buffer that numpy has looked at could never be moved out again.
            name: hashlib.sha256(tensor.cpu().clone().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()
            for name, tensor in self.weights()
        }

    def stop(self) -> None:
        """Leaves the process groups. End the process then: megatron-core's wrappers keep the groups' threads alive."""
        self.leave()
        self.models, self.optimizer = [], None
        finalize()


def marked(places: Tensor, length: int) -> Tensor:
    """A mask of these places."""
    return torch.zeros(length, dtype=torch.bool).index_fill(0, places, True)


def every_token(parts: Sequence[Batch]) -> list[Tensor]:
    """Masks that leave nothing out."""
    return [torch.ones(part.rows.num_tokens, dtype=torch.bool) for part in parts]


def keep_all(pack: Pack, said: Said) -> tuple[Tensor, tuple[Tensor, Said]]:
    """No loss; what the head says, and about which tokens."""
    return torch.zeros((), device=pack.ids.device), (pack.token, said)
