"""What reward models said of rollouts: the paid score is theirs too, the rules' stays what it was."""

import json

from written_run import records, said, write

from hpt_megatron.feedback.written import find, responses


def test_the_paid_score_is_read_from_beside_the_rollouts(run_folder):
    uid = records(run_folder)[0].index
    write(run_folder, "train", 1, (said(uid, 0, "a"), 1.0), (said(uid, 1, "b"), 0.0))
    beside = run_folder / "learned" / "train_1.jsonl"
    beside.parent.mkdir()
    line = {"uid": uid, "sample": 0, "score": 2.5, "learned": 1.5, "learned/safe": 0.5}
    beside.write_text(f"{json.dumps(line)}\n{{torn\n", encoding="utf-8")
    one, other = responses(find(run_folder), "train")
    assert (one.total, one.paid) == (1.0, 2.5)
    assert one.components["learned/safe"] == 0.5
    assert one.components["accuracy"] == 1.0
    assert (other.total, other.paid) == (0.0, 0.0)
