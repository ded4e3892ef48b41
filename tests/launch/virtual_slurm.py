"""A real Slurm on this machine: one controller, two nodes that are the same host under two names and ports.

    with virtual_slurm.started(directory) as env: subprocess.run(["sbatch", ...], env=env)

Wants Debian's slurmctld, slurmd, slurm-client and munge, and root. Of a cluster it lacks what lies between
hosts, a network and a shared file system, and cgroups.
"""

import contextlib
import os
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator

HOST = socket.gethostname()
NODES = (HOST, f"{HOST}-2")  # JAX looks for process 0 by the first name: it must be a host's
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "munged")
CONFIG = """
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={at}/munge.socket
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=1,bf_interval=1
MinJobAge=600
{nodes}
PartitionName=all Nodes={names} Default=YES State=UP MaxTime=INFINITE
"""


def missing() -> str:
    """Why there is no Slurm here; empty where there is one."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "its daemons run as root here"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


@contextlib.contextmanager
def started(at: pathlib.Path) -> Iterator[dict[str, str]]:
    """The environment of Slurm's commands, while its daemons run; their files are in the directory `at`."""
    ports = free_ports(1 + len(NODES))
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={HOST} NodeAddr=127.0.0.1 Port={port} CPUs=1"
        for name, port in zip(NODES, ports[1:], strict=True)
    )
    text = CONFIG.format(host=HOST, ports=ports, at=at, nodes=nodes, names=",".join(NODES))
    (at / "slurm.conf").write_text(text, encoding="utf-8")
    (at / "munge.key").write_bytes(os.urandom(1024))
    (at / "munge.key").chmod(0o400)
    (at / "state").mkdir()
    env = os.environ | {"SLURM_CONF": str(at / "slurm.conf")}
    daemons = [
        ["munged", "--foreground", "--force", f"--key-file={at}/munge.key", f"--socket={at}/munge.socket",
         f"--pid-file={at}/munged.pid", f"--log-file={at}/munged.log", f"--seed-file={at}/munged.seed"],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", name] for name in NODES),
    ]  # fmt: skip
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(at / "daemons.log", "w", encoding="utf-8"))
        for daemon in daemons:
            running = subprocess.Popen(daemon, env=env, stdout=log, stderr=log)
            stack.callback(running.wait)
            stack.callback(running.terminate)
            time.sleep(0.5)  # each wants the socket or the port of the one before it
        until(lambda: said(["sinfo", "-h", "-o", "%D %t"], env).strip() == f"{len(NODES)} idle", 30)
        yield env
        said(["scancel", "--user=root"], env)


def said(command: list[str], env: dict[str, str]) -> str:
    """What a command prints; empty where it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def until(condition, seconds: float) -> None:
    """Returns when the condition holds; AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain"
        time.sleep(0.2)
