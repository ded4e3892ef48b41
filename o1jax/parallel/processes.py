"""Starting this process among the others, and waiting for them.

Plain multi-controller JAX. What each process owns is decided elsewhere: problems by
seeds.in_share, rows of a batch by the mesh.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import jax
from jax.experimental import multihost_utils

from o1jax.records import InputError

KEEP_FREED_MEMORY = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={16 << 30}", "arena_max=1")
)
AUTO = "auto"  # let JAX ask Slurm, Open MPI, GKE or the TPU's metadata


def start_processes(
    coordinator: str = "", processes: int = 0, index: int = -1, env: Mapping[str, str] | None = None
) -> None:
    """Joins the other processes; call it before anything touches a device. Alone, it does nothing.

    coordinator: "host:port" of process 0, or "auto". What is not given is read from the environment:
    O1JAX_COORDINATOR, O1JAX_PROCESSES and O1JAX_PROCESS_INDEX. Raises InputError when part is missing.
    """
    env = os.environ if env is None else env
    coordinator = coordinator or env.get("O1JAX_COORDINATOR", "")
    if not coordinator:
        return
    if coordinator == AUTO:
        jax.distributed.initialize()
        return
    processes = processes or int(env.get("O1JAX_PROCESSES", "0"))
    index = index if index >= 0 else int(env.get("O1JAX_PROCESS_INDEX", "-1"))
    if not 0 <= index < processes:
        raise InputError(
            f"coordinator {coordinator!r} with process index {index} of {processes}: give the number of "
            "processes and this one's index (O1JAX_PROCESSES, O1JAX_PROCESS_INDEX)"
        )
    jax.distributed.initialize(coordinator, processes, index)


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


def compute_environment(env: Mapping[str, str]) -> dict[str, str]:
    """`env` for a child process that trains or decodes on the CPU: malloc keeps what is freed.

    XLA frees and takes again its temporaries at every step, 140 MB of page faults for a nano
    training step; kept, and in huge pages, the step takes three quarters of the CPU time. Read by
    glibc at start only, hence for a child; other C libraries ignore it, a value that is set stays.
    """
    return {"GLIBC_TUNABLES": KEEP_FREED_MEMORY, **env}
