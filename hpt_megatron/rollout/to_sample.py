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
    answer = done.answer if own is None else own
    return _sample(record, turns, answer, done.retrieved, done.num_sampled)


def sample_of_target(record: Record) -> Sample:
    """What the rewards see of a record's demonstration: what the assistant says in it."""
    turns = tuple(message.content for message in record.target or () if message.role == "assistant")
    return _sample(record, turns, final_answer(turns), (), 0)


def _sample(
    record: Record, turns: tuple[str, ...], answer: str | None, retrieved: tuple[str, ...], tokens: int
) -> Sample:
    return Sample(
        turns=turns,
        answer=answer,
        golds=record.golds,
        choices=record.choices,
        question=record.question.replace("<image>", "").strip(),
        retrieved=retrieved,
        reference=record.reference,
        tokens=tokens,
        modality=record.modality,
        data_source=record.data_source,
    )
