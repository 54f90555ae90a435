"""A real SLURM on this host: Debian's daemons, two emulated nodes, everything below one folder and none of it in /etc.

Both nodes are this host under two names and ports. What they claim to have is not enforced, so jobs of any size can be
asked for; a job of the partition `urgent` takes the nodes of one in `debug`, which then goes back into the queue.

Decision: daemons in the foreground, as children of the tests, ended by their own numbers; never through a service.
"""

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

from hpt_megatron.host.ports import free_port

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "scancel", "sinfo")
NODES = ("node1", "node2")
CONFIGURATION = """
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=10
CredType=cred/munge
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1,batch_sched_delay=0
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
JobRequeue=1
EnforcePartLimits=ALL
KillWait=5
InactiveLimit=0
MinJobAge=3600
SlurmdTimeout=60
CommunicationParameters=NoAddrCache
GresTypes=gpu
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=120
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=16 Boards=1 SocketsPerBoard=1 "
    "CoresPerSocket=16 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:h100:8 State=UNKNOWN\n"
)


def missing() -> list[str]:
    """Programs of SLURM that this host lacks."""
    return [name for name in NEEDED if shutil.which(name) is None]


class Slurm:
    """The daemons, and what tests ask of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        """All of them, until both nodes are idle; none, where that fails."""
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for name in ("munge", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self._configure()
        munge = self.folder / "munge"
        munge.chmod(0o700)
        key = munge / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munge.chmod(0o755)
        own = [f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={munge}/pid"]
        self._daemon("munged", "--force", "--foreground", *own, f"--log-file={munge}/log", f"--seed-file={munge}/seed")
        self._until(lambda: (munge / "socket").exists(), "munged")
        configuration = self.environment["SLURM_CONF"]
        self._daemon("slurmctld", "-D", "-i", "-f", configuration)
        for node in NODES:
            self._daemon("slurmd", "-D", "-N", node, "-f", configuration)
        self._until(lambda: len(set(self.ask("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())) == 2, "the nodes")

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, folder=self.folder, port=free_port())
        for name in NODES:
            text += NODE.format(name=name, host=host, port=free_port())
        (self.folder / "slurm.conf").write_text(text, encoding="ascii")
        for number in range(8):  # SLURM counts files; what they are it does not ask
            (self.folder / f"gpu{number}").touch()
        gres = "".join(f"NodeName={name} Name=gpu Type=h100 File={self.folder}/gpu[0-7]\n" for name in NODES)
        (self.folder / "gres.conf").write_text(gres, encoding="ascii")

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            self.daemons.append(
                subprocess.Popen(command, stdout=out, stderr=out, env=self.environment, start_new_session=True)
            )

    def _until(self, there, what: str) -> None:
        until = time.monotonic() + 60
        while not there():
            assert time.monotonic() < until, f"{what} did not come up; see {self.folder}"
            time.sleep(0.1)

    def stop(self) -> None:
        """Jobs first, then the daemons, the last one first."""
        self.ask("scancel", "--full", "--signal=KILL", f"--user={os.environ.get('USER', 'root')}")
        time.sleep(1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def ask(self, *command: str) -> str:
        """What one of its commands says."""
        return subprocess.run(command, capture_output=True, text=True, env=self.environment, check=False).stdout

    def facts(self, number: str) -> dict[str, str]:
        """Of a job."""
        return dict(re.findall(r"(\w+)=(\S+)", self.ask("scontrol", "show", "job", "--oneliner", number)))

    def wait(self, number: str, seconds: float) -> dict[str, str]:
        """Until a job has left the queue for good. One that goes back into it is not made to wait two minutes."""
        final = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
        until = time.monotonic() + seconds
        while (facts := self.facts(number)).get("JobState") not in final:
            assert time.monotonic() < until, f"job {number} did not end: {facts}"
            if facts.get("JobState") == "PENDING" and facts.get("Reason") == "BeginTime":
                self.ask("scontrol", "update", f"jobid={number}", "StartTime=now")
            time.sleep(0.3)
        return facts
