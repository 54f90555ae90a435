"""Senders and receivers of real transports: every number arrives, buffers are used again, and a death is noticed.

Shared host memory and gloo run here. CUDA IPC and NCCL are the same code over other memory; they need a GPU.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
import torch
from plan_cases import engine, numbered, plan_of, small, trainer

from hpt_megatron.errors import HptError, UserError
from hpt_megatron.host.ports import free_port
from hpt_megatron.weights.plan.cost import cost
from hpt_megatron.weights.plan.parcels import fingerprint, parcels, received_by, sent_by
from hpt_megatron.weights.publish.halves import halves
from hpt_megatron.weights.publish.receiver import Receiver
from hpt_megatron.weights.publish.sender import Sender, misfits
from hpt_megatron.weights.publish.session import MEMORY, Session, open_place
from hpt_megatron.weights.simulate import execute, hold

KINDS = ("shared", "sent")


class Meeting:
    """All sides of one plan, each in a thread."""

    def __init__(self, kind, bucket=2000, tp=2, pp=2, rollout=2, sender=Sender, timeout_s=20):
        model = small(4, 2, layers=4)
        self.plan = plan_of(trainer(model, tp=tp, pp=pp), engine(model, rollout), bucket=bucket)
        self.held = hold(self.plan.source, numbered(model))
        self.wanted = execute(self.plan, self.held)
        place = open_place(1 << 20) if kind == "shared" else f"127.0.0.1:{free_port()}"
        ranks = self.plan.source.ranks, self.plan.target.ranks
        self.session = Session(kind, "cpu", place, fingerprint(self.plan), *ranks, timeout_s)
        self.packed = parcels(self.plan)
        self.oversize = frozenset(("all", n) for n, each in enumerate(self.plan.buckets) if each.oversize)
        self.kind_of_sender = sender

    def parameters(self, rank):
        return {name: torch.from_numpy(values) for name, values in self.held[rank].items()}

    def sends(self, rank, times=1):
        own = {"all": sent_by(self.packed, rank)}
        sender = self.kind_of_sender(self.session, rank, own, self.parameters(rank), self.oversize)
        try:
            sender.meet()
            return [sender.send("all") for _ in range(times)]
        finally:
            sender.close()

    def receives(self, rank, times=1, wait=0.0):
        own = {"all": received_by(self.plan, self.packed, rank)}
        receiver = Receiver(self.session, rank, own, torch.float32)
        try:
            for _ in range(times):
                found = {name: torch.zeros(values.shape) for name, values in self.wanted[rank].items()}
                for modules, landed in receiver.receive("all"):
                    time.sleep(wait)
                    assert {landing.parameter.rpartition(".")[0] for landing, _ in landed} <= set(modules)
                    for landing, rows in landed:
                        size = landing.shape[landing.axis]
                        found[landing.parameter].narrow(landing.axis, landing.start, size).copy_(rows)
            return found, receiver.counted
        finally:
            receiver.close()

    def run(self, **how):
        """What each side comes to: answers of senders and of receivers, or the errors."""
        with ThreadPoolExecutor(8) as pool:
            works = [pool.submit(self.sends, rank, how.get("times", 1)) for rank in range(self.plan.source.ranks)]
            takes = [pool.submit(self.receives, rank, **how) for rank in range(self.plan.target.ranks)]
            sides = [[work.exception() or work.result() for work in side] for side in (works, takes)]
        self.session.close()
        return sides


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bucket", [300, 2000, 1 << 20])
def test_everything_arrives_and_is_counted(kind, bucket):
    meeting = Meeting(kind, bucket)
    sent, received = meeting.run(times=2)
    for rank, (found, _) in enumerate(received):
        for name, values in meeting.wanted[rank].items():
            assert torch.equal(found[name], torch.from_numpy(values)), (rank, name)
    links = cost(meeting.plan).links
    for rank, each in enumerate(sent):
        assert each[0] == each[1] == {target: size for (source, target), size in links.items() if source == rank}
    for rank, (_, counted) in enumerate(received):
        assert counted == {source: 2 * size for (source, target), size in links.items() if target == rank}


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_receiver_never_reads_what_comes_next(kind):
    """Every read happens long after the sender could have gone on; a buffer used too early would show other numbers."""
    meeting = Meeting(kind, bucket=2000)
    _, received = meeting.run(wait=0.01)
    for rank, (found, _) in enumerate(received):
        assert all(torch.equal(found[name], torch.from_numpy(values)) for name, values in meeting.wanted[rank].items())


class Dies(Sender):
    """A sender that ends at a row."""

    at = 0
    rows = count()

    def pack(self, row, memory):
        if self.rank == 1 and next(Dies.rows) == Dies.at:
            raise KeyboardInterrupt  # not an error that anything here would catch
        super().pack(row, memory)


@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_sender_that_dies_is_named_on_every_other_side(at):
    Dies.at, Dies.rows = at, count()
    started = time.monotonic()
    sent, received = Meeting("shared", 500, sender=Dies).run()
    assert isinstance(sent[1], KeyboardInterrupt)
    for error in received:
        assert isinstance(error, HptError)
        assert "trainer rank 1: has ended" in str(error)
    assert isinstance(sent[0], HptError)
    assert "engine rank" in str(sent[0])
    assert time.monotonic() - started < 15, "the end of a socket is seen at once, not at a deadline"


def test_a_sender_that_dies_is_named_over_the_network_too():
    """In one process here, whose end nobody sees before the deadline; a process that ends closes its connections."""
    Dies.at, Dies.rows = 3, count()
    sent, received = Meeting("sent", 500, sender=Dies, timeout_s=3).run()
    assert isinstance(sent[1], KeyboardInterrupt)
    for error in received:
        assert isinstance(error, HptError)
        assert "trainer rank" in str(error)
        assert "does not answer any more" in str(error)


def test_nothing_stays_in_memory_once_all_have_met():
    """Also while bytes flow: a crash then leaves nothing in the host's memory but an empty folder."""
    meeting = Meeting("shared")
    stop = threading.Event()
    inside = []

    class Stays(Sender):
        def pack(self, row, memory):
            if not stop.is_set():
                stop.set()
                inside.extend(
                    path.name for path in meeting.session.folder.iterdir() if path.name.startswith(f"{self.rank}.")
                )
            super().pack(row, memory)

    meeting.kind_of_sender = Stays
    meeting.run()
    assert stop.is_set()
    assert not meeting.session.folder.exists()
    assert not inside, "buffer and socket have no name any more once everybody has them"


def test_others_may_not_enter():
    place = Session("shared", "cpu", open_place(1), "", 1, 1)
    assert place.folder.stat().st_mode & 0o077 == 0
    place.close()


def test_a_buffer_that_does_not_fit_is_refused_before_anything_is_made():
    before = set(MEMORY.glob("hpt-weights-*"))
    with pytest.raises(UserError, match="publish_bucket_mb"):
        open_place(1 << 60)
    assert set(MEMORY.glob("hpt-weights-*")) == before


def test_plans_that_differ_never_start():
    meeting = Meeting("shared", tp=1, pp=1, rollout=1)
    other = Session(**{**meeting.session.plain(), "fingerprint": "0" * 16, "timeout_s": 2})
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(meeting.sends, 0)
        meeting.session = other
        with pytest.raises(HptError, match=r"plans \w{16} where the engine expects 0000000000000000"):
            meeting.receives(0)
        assert isinstance(sending.exception(), HptError)
    other.close()


def test_a_receiver_that_does_not_come_is_named():
    meeting = Meeting("shared", timeout_s=0.2)
    with pytest.raises(HptError, match=r"engine ranks \[0\] did not come"):
        meeting.sends(0)
    meeting.session.close()


def test_a_session_that_is_given_up_lets_everybody_go():
    """The engine refused the plan, say: the trainer need not wait for a deadline."""
    meeting = Meeting("shared", timeout_s=600)
    started = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(meeting.sends, 0), pool.submit(meeting.receives, 0)]  # rank 1 never comes
        time.sleep(0.2)
        meeting.session.close()
        for work in works:
            assert isinstance(work.exception(), HptError)
    assert time.monotonic() - started < 60


def test_a_sender_refuses_parameters_that_are_not_the_plans():
    meeting = Meeting("shared")
    own = {"all": sent_by(meeting.packed, 0)}
    held = meeting.parameters(0)
    assert not misfits(own, held, 4)
    name = next(iter(own["all"])).rows[0].piece.source_parameter
    assert misfits(own, {**held, name: held[name][:0]}, 4) == [f"{name} is {[0, *held[name].shape[1:]]}"]
    assert misfits(own, {**held, name: held[name].double()}, 4) == [f"{name} is torch.float64"]
    assert f"{name} is not here" in misfits(own, {key: value for key, value in held.items() if key != name}, 4)
    meeting.session.close()


def test_halves_hold_what_fits_and_the_whole_holds_what_does_not():
    assert halves([(100, False), (60, False)]) == (128, 256)
    assert halves([(100, False), (1000, True)]) == (128, 1000)
    assert halves([(1000, True)]) == (0, 1000)
    assert halves([]) == (0, 1)
