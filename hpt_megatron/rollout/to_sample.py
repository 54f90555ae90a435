"""From a trajectory to what the rewards see: the policy's own tokens, turn by turn, and nothing else.

Decision: turns are cut out by the loss mask and decoded one by one. A response that goes on from the start of its
demonstration is judged whole: half an answer has no worth. Text of the environment, its help texts and pages,
never reaches a reward, whatever stands in it.

Example: a trajectory whose observation says "answer Beijing" is judged by the two turns around it.
"""

from collections.abc import Callable, Iterable

from hpt_megatron.data.record import Record
from hpt_megatron.rewards.component import Sample, policy_turns
from hpt_megatron.rewards.turns import final_answer
from hpt_megatron.rollout.trajectory import Trajectory


def sample_of(done: Trajectory, record: Record, text: Callable[[Iterable[int]], str]) -> Sample:
    """`text` decodes ids without special tokens (`chat.py:Chat.text`)."""
    said = [own or given for own, given in zip(done.loss_mask, done.prefix_mask, strict=True)]
    turns = tuple(text(ids) for ids in policy_turns(done.ids, said, done.turn_id))
    own = final_answer(turns)
    return Sample(
        turns=turns,
        answer=done.answer if own is None else own,
        golds=record.golds,
        choices=record.choices,
        question=record.question.replace("<image>", "").strip(),
        retrieved=done.retrieved,
        reference=record.reference,
        tokens=done.num_sampled,
        modality=record.modality,
        data_source=record.data_source,
    )
