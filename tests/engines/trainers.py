"""The trainer's processes, kept alive and called by name: what a worker group does, for tests."""

import threading
from dataclasses import replace
from multiprocessing.connection import Client, Listener

from hpt_megatron.errors import HptError
from hpt_megatron.mcore.local_processes import run as run_processes

DEADLINE_S = 900


class FailedError(Exception):
    """A process raised; what, in its words."""


def serve(where, run, address, key):
    """One process: does what it is asked until it is told to stop."""
    import torch

    from hpt_megatron.mcore.worker import MegatronWorker

    worker = MegatronWorker(run, train=False)
    worker.start(where)
    acts = Acts(worker)
    with Client(address, authkey=key) as driver:
        driver.send(where.rank)
        while True:
            name, arguments = driver.recv()
            if name == "stop":
                worker.leave()
                return
            try:
                with torch.no_grad():
                    driver.send((True, getattr(acts, name)(*arguments)))
            except Exception as error:
                driver.send((False, f"{type(error).__name__}: {error}"))


class Acts:
    """What a process can be asked for."""

    def __init__(self, worker):
        self.worker = worker

    def meet(self, session, rollout):
        """For engines of a test's own; a run has one kind."""
        self.worker.run = replace(self.worker.run, rollout=rollout)
        self.worker.meet(session)
        return sum(len(parcel.rows) for parcel in self.worker.sender.parcels["all"])

    def send(self, which):
        return dict(self.worker.send(which))

    def send_until(self, row, which):
        """Fails where it should pack a row."""
        sender, packed = self.worker.sender, iter(range(1 << 30))

        def pack(each, memory):
            if next(packed) == row:
                raise HptError("cut off")
            type(sender).pack(sender, each, memory)

        sender.pack = pack
        return self.send(which)

    def change(self, seed, only=""):
        """Other weights, the same on all copies: a step of a training that nobody needs to understand."""
        import torch

        from hpt_megatron.mcore.model.named import parameters_of

        for name, param in parameters_of(self.worker.models):
            if only in name:
                cut = self.worker.table.kind(name) != "replicated"
                generator = torch.Generator().manual_seed(seed + 10_000 * cut * self.worker.place.tp_rank)
                param.add_(torch.randn(param.shape, generator=generator) * 0.05)

    def digests(self, layout):
        from hpt_megatron.weights.publish.digests import digests

        found = digests(layout, self.worker.weights())
        return found if self.worker.speaks else {}

    def greedy(self, batch):
        """The most likely token after every token of a batch, in the batch's order; -1 at the first of a row."""
        import torch

        from hpt_megatron.mcore.worker import every_token

        parts = self.worker.split(batch)
        found = []
        for part, (token, logits) in zip(
            parts, self.worker.logits(parts, self.worker.sampling()) or [(None, None)] * len(parts), strict=True
        ):
            if token is not None:
                best = torch.full((len(every_token([part])[0]),), -1)
                best[token] = logits.argmax(-1)
                found.append((part.rows.fields["sample"].tolist(), part.rows.lengths.tolist(), best.tolist()))
        return found


class Trainers:
    """All processes of a layout."""

    def __init__(self, run, processes, tmp_path):
        self.listener = Listener(str(tmp_path / "trainers"), backlog=processes, authkey=b"of this test")
        self.errors = []
        arguments = (run, str(tmp_path / "trainers"), b"of this test")
        self.thread = threading.Thread(target=self._run, args=(processes, arguments), daemon=True)
        self.thread.start()
        peers = [self.listener.accept() for _ in range(processes)]
        self.peers = [peer for _, peer in sorted(((peer.recv(), peer) for peer in peers), key=lambda one: one[0])]

    def _run(self, processes, arguments):
        try:
            run_processes(processes, serve, *arguments, deadline_s=DEADLINE_S)
        except BaseException as error:
            self.errors.append(error)

    def call(self, name, *arguments):
        """All at once; answers what each says, or raises."""
        return self.each([(name, *arguments)] * len(self.peers))

    def each(self, asked):
        """To each its own: (name, argument...)."""
        for peer, (name, *arguments) in zip(self.peers, asked, strict=True):
            peer.send((name, arguments))
        said = [peer.recv() for peer in self.peers]
        wrong = [answer for good, answer in said if not good]
        if wrong:
            raise FailedError("; ".join(wrong))
        return [answer for _, answer in said]

    def stop(self):
        for peer in self.peers:
            peer.send(("stop", ()))
        self.thread.join(30)
        self.listener.close()
        assert not self.errors, self.errors
