"""Starting this process among the others, and waiting for them.

Plain multi-controller JAX. What each process owns is decided elsewhere: problems by
seeds.in_share, rows of a batch by the mesh. A process knows its place by the environment alone, so that
what is not collective (D1) need not join the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from o1jax.records import InputError

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


class Place(NamedTuple):
    """One process of `count`; its `coordinator` is empty where it is alone."""

    index: int
    count: int
    coordinator: str


def place(env: Mapping[str, str] | None = None) -> Place:
    """This process's place by the environment; touches no device and asks no other process.

    O1JAX_COORDINATOR is "host:port" of process 0, or "auto"; without it the process is alone. The number
    of processes and the index are O1JAX_PROCESSES and O1JAX_PROCESS_INDEX, with "auto" else those of Slurm or
    Open MPI. InputError when part is missing.
    """
    env = os.environ if env is None else env
    coordinator = env.get("O1JAX_COORDINATOR", "")
    if not coordinator:
        return Place(0, 1, "")
    for count, index in SCHEDULERS if coordinator == AUTO else SCHEDULERS[:1]:
        if env.get(count, "").isdigit() and env.get(index, "").isdigit():
            found = Place(int(env[index]), int(env[count]), coordinator)
            if found.index < found.count:
                return found
    seen = {name: env[name] for names in SCHEDULERS for name in names if name in env}
    raise InputError(
        f"O1JAX_COORDINATOR {coordinator!r} with {seen or 'no number of processes'}: set O1JAX_PROCESSES to "
        "the number of processes, and O1JAX_PROCESS_INDEX to this one's, from 0"
    )


def start_processes(env: Mapping[str, str] | None = None) -> None:
    """Joins the other processes; call it before anything touches a device. Alone, it does nothing, nor does
    it a second time. Raises InputError as `place`."""
    index, count, coordinator = place(env)
    if not coordinator or jax.distributed.is_initialized():
        return
    if coordinator == AUTO:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, count, index)
    if (seen := (jax.process_index(), jax.process_count())) != (index, count):
        raise InputError(
            f"process {index} of {count}, but {AUTO!r} found {seen[0]} of {seen[1]}: give each process "
            "the index that JAX gives it (a TPU's worker number), or a coordinator host:port"
        )


def stay_alone() -> None:
    """Instead of start_processes: on a host of a TPU slice libtpu then gives this process the host's own
    chips, and does not wait for the other hosts. Untested on TPUs; elsewhere it changes nothing."""
    if place().count > 1:
        os.environ.setdefault("TPU_PROCESS_BOUNDS", "1,1,1")


def process_index() -> int:
    """This process's number, from 0."""
    return jax.process_index()


def process_count() -> int:
    """How many processes there are."""
    return jax.process_count()


def is_leader() -> bool:
    """Whether this is process 0, the one that logs and writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has called it with the same name; alone, at once."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def agreed(value: bool) -> bool:
    """The value of process 0, in every process; all of them call it. Alone, the value."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def compute_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a child process that trains or decodes on the CPU: malloc keeps what is freed.

    XLA frees and takes again its temporaries at every step, 140 MB of page faults for a nano
    training step; kept, and in huge pages, the step takes three quarters of the CPU time. Read by
    glibc at start only, hence for a child; other C libraries ignore it, a value that is set stays.
    """
    return {"GLIBC_TUNABLES": KEEP_FREED_MEMORY, **env}
