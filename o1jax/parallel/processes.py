"""Starting this process among the others, waiting for them, and what process 0 says for all.

Plain multi-controller JAX. A process knows its rank by the environment alone, so that what is not collective
(D1) need not join the others. Decides no shares: problems go by seeds.in_share, rows of a batch by the mesh.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from o1jax.records import InputError

SLOW_S = 2.0  # what takes less is not reported: tests and the demo would print a line for every program
KEEP_FREED_MEMORY = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={16 << 30}", "arena_max=1")
)
AUTO = "auto"  # let JAX ask Slurm, Open MPI, GKE or the TPU's metadata
SCHEDULERS = (  # the variables with the number of processes, and with this one's index
    ("O1JAX_PROCESSES", "O1JAX_PROCESS_INDEX"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
)


class Process(NamedTuple):
    """One process among those that run the same script."""

    index: int  # its rank, from 0
    count: int  # how many there are
    coordinator: str  # "host:port" of process 0, or AUTO; empty where it is alone


def this_process(env: Mapping[str, str] | None = None) -> Process:
    """This process's rank by the environment; touches no device and asks no other process.

    O1JAX_COORDINATOR is "host:port" of process 0, or "auto"; without it the process is alone. The number
    of processes and the index are O1JAX_PROCESSES and O1JAX_PROCESS_INDEX, with "auto" else those of Slurm or
    Open MPI. InputError when part is missing.
    """
    env = os.environ if env is None else env
    coordinator = env.get("O1JAX_COORDINATOR", "")
    if not coordinator:
        return Process(0, 1, "")
    for count, index in SCHEDULERS if coordinator == AUTO else SCHEDULERS[:1]:
        if env.get(count, "").isdigit() and env.get(index, "").isdigit():
            rank = Process(int(env[index]), int(env[count]), coordinator)
            if rank.index < rank.count:
                return rank
    seen = {name: env[name] for names in SCHEDULERS for name in names if name in env}
    raise InputError(
        f"O1JAX_COORDINATOR {coordinator!r} with {seen or 'no number of processes'}: set O1JAX_PROCESSES to "
        "the number of processes, and O1JAX_PROCESS_INDEX to this one's, from 0"
    )


def start_processes(env: Mapping[str, str] | None = None) -> None:
    """Joins the other processes; call it before anything touches a device. With one process it does nothing,
    nor does it a second time. Raises InputError as `this_process`."""
    index, count, coordinator = this_process(env)
    if not coordinator or jax.distributed.is_initialized():
        return
    if coordinator == AUTO:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, index)
    # `this_process` and JAX must agree: shares of problems go by the first, rows of a batch by the second.
    if (seen := (jax.process_index(), jax.process_count())) != (index, count):
        raise InputError(
            f"process {index} of {count}, but {AUTO!r} found {seen[0]} of {seen[1]}: give each process "
            "the index that JAX gives it (a TPU's worker number), or a coordinator host:port"
        )


def stay_alone() -> None:
    """Instead of start_processes: on a host of a TPU slice libtpu then gives this process the host's own
    chips, and does not wait for the other hosts. Untested on TPUs; elsewhere it changes nothing."""
    if this_process().count > 1:
        os.environ.setdefault("TPU_PROCESS_BOUNDS", "1,1,1")


def is_leader() -> bool:
    """Whether this is process 0 of those that have joined, which logs and writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has called it with the same name; with one process, at once."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: bool) -> bool:
    """The value of process 0, in every process; all of them call it. With one process, `value` itself."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def report_slow(what: str, seconds: float) -> None:
    """One line on stderr, "<what> in <seconds> s", of process 0 alone and of nothing that was quick."""
    # By `this_process`, not is_leader: a process that searches has not joined the others, and is 0 to JAX.
    if seconds >= SLOW_S and this_process().index == 0:
        tqdm.write(f"{what} in {seconds:.1f} s", file=sys.stderr)  # above a bar, if there is one


@contextlib.contextmanager
def reporting_slow(what: str, *, says: bool = True) -> Iterator[None]:
    """As report_slow, of what is done within; of nothing where `says` is False."""
    began = time.monotonic()
    yield
    if says:
        report_slow(what, time.monotonic() - began)


def compute_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a child process that trains or decodes on the CPU: malloc keeps what is freed.

    XLA frees and takes again its temporaries at every step, 140 MB of page faults for a nano
    training step; kept, and in huge pages, the step takes three quarters of the CPU time. Read by
    glibc at start only, hence for a child; other C libraries ignore it, a value that is set stays.
    """
    return {"GLIBC_TUNABLES": KEEP_FREED_MEMORY, **env}
