"""Starting this process among the others, waiting for them, and what process 0 says for all.

Plain multi-controller JAX. A process knows its rank, and which accelerators of its host are its own, by the
environment alone, so that what is not collective (D1) need not join the others. Decides no shares: problems
go by leases.py, rows of a batch by the mesh.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax._src import distributed  # its client has no public name; Orbax takes it from here too
from jax.experimental import multihost_utils
from tqdm import tqdm

from o1jax.records import InputError

SLOW_S = 2.0  # what takes less is not reported: tests and the demo would print a line for every program
KEEP_FREED_MEMORY = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("hugetlb=1", "mmap_max=0", f"trim_threshold={16 << 30}", "arena_max=1")
)
AUTO = "auto"  # the scheduler's variables say which process this is, and JAX finds process 0's address
OWN = ("O1JAX_PROCESSES", "O1JAX_PROCESS_INDEX")  # the number of processes, and this one's index
SCHEDULERS = (  # the same by Open MPI and Slurm, in JAX's order: mpirun in a job finds Slurm's variables too
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("SLURM_NTASKS", "SLURM_PROCID"),
)
TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")  # the hosts of a slice, with commas between
CHIPS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # a TPU host's number of chips -> their grid
BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_TRES_PER_TASK", "SLURM_GPU_BIND")  # Slurm shows a task its own GPUs


class Process(NamedTuple):
    """One process among those that run the same script."""

    index: int  # its rank, from 0
    count: int  # how many there are
    coordinator: str  # "host:port" of process 0, or AUTO; empty where it is alone


def this_process(env: Mapping[str, str] | None = None) -> Process:
    """This process's rank by the environment; touches no device and asks no other process.

    O1JAX_COORDINATOR is "host:port" of process 0, or "auto"; without it the process is alone. The number
    of processes and the index are O1JAX_PROCESSES and O1JAX_PROCESS_INDEX, with "auto" else those of Open
    MPI, of Slurm or of a TPU slice on GKE. InputError when part is missing.
    """
    env = os.environ if env is None else env
    coordinator = env.get("O1JAX_COORDINATOR", "")
    if not coordinator:
        return Process(0, 1, "")
    ranks = [_numbers(env, *names) for names in (OWN, *SCHEDULERS)] + [_rank_in_slices(env)]
    for index, count in ranks if coordinator == AUTO else ranks[:1]:
        if index < count:
            return Process(index, count, coordinator)
    seen = {name: env[name] for names in (OWN, *SCHEDULERS) for name in names if name in env}
    raise InputError(
        f"O1JAX_COORDINATOR {coordinator!r} with {seen or 'no number of processes'}: set O1JAX_PROCESSES to "
        "the number of processes, and O1JAX_PROCESS_INDEX to this one's, from 0"
    )


def _numbers(env: Mapping[str, str], count: str, index: str) -> tuple[int, int]:
    """(index, count) by these variables; (0, 0) where one is missing or no number."""
    values = env.get(index, ""), env.get(count, "")
    return (int(values[0]), int(values[1])) if all(value.isdigit() for value in values) else (0, 0)


def _rank_in_slices(env: Mapping[str, str]) -> tuple[int, int]:
    """(index, count) of a host of TPU slices, as GKE describes it to its pods; (0, 0) elsewhere. JAX counts
    its processes in the same way: slice by slice, and in a slice by the worker's number."""
    hosts = next((len(env[name].split(",")) for name in TPU_HOSTS if env.get(name)), 0)
    slices, own_slice = env.get("MEGASCALE_NUM_SLICES") or "1", env.get("MEGASCALE_SLICE_ID") or "0"
    if not all(value.isdigit() for value in (env.get("TPU_WORKER_ID", ""), slices, own_slice)):
        return 0, 0
    return int(env["TPU_WORKER_ID"]) + int(own_slice) * hosts, int(slices) * hosts


def own_gpus(env: Mapping[str, str], visible: int) -> tuple[int, ...]:
    """Which of the `visible` GPUs of this host are this process's; () for all of them.

    A process that is alone on its host takes all. Several share them out evenly, in their order, unless Slurm
    shows each its own, or JAX_LOCAL_DEVICE_IDS names them. InputError where the GPUs do not divide.
    """
    if named := env.get("JAX_LOCAL_DEVICE_IDS"):
        return tuple(map(int, named.split(",")))
    local_index, local_count = _rank_on_host(env)
    shown_apart = any(env.get(name) for name in BOUND) or visible < local_count
    if local_count == 1 or shown_apart:
        return ()
    each, rest = divmod(visible, local_count)
    if rest:
        raise InputError(
            f"{local_count} processes on this host and {visible} GPUs: start a number of processes that "
            "divides the GPUs (one a host is best), or set JAX_LOCAL_DEVICE_IDS for each"
        )
    return tuple(range(local_index * each, (local_index + 1) * each))


def _rank_on_host(env: Mapping[str, str]) -> tuple[int, int]:
    """(index, count) among the processes of this host, by Open MPI or Slurm; (0, 1) where neither says."""
    index, count = _numbers(env, "OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    if count:
        return index, count
    # Slurm gives the tasks of every node, as in "2(x3),1": two on each of three nodes, one on the fourth.
    parts = re.findall(r"(\d+)(?:\(x(\d+)\))?", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    tasks = [int(each) for each, nodes in parts for _ in range(int(nodes or 1))]
    node, local = env.get("SLURM_NODEID", ""), env.get("SLURM_LOCALID", "")
    if node.isdigit() and local.isdigit() and int(node) < len(tasks):
        return int(local), tasks[int(node)]
    return 0, 1


def visible_gpus(env: Mapping[str, str]) -> int:
    """How many NVIDIA GPUs this process would see; touches none."""
    if (listed := env.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([gpu for gpu in listed.split(",") if gpu.strip() not in ("", "-1", "NoDevFiles")])
    return len([path for path in pathlib.Path("/dev").glob("nvidia*") if path.name[6:].isdigit()])


def tpu_chips() -> int:
    """How many TPU chips this host has, 0 where libtpu is not installed; touches none."""
    if importlib.util.find_spec("libtpu") is None:
        return 0
    # Older machines have /dev/accel0 and so on, newer ones a numbered group of /dev/vfio for each chip.
    return max(len(list(pathlib.Path("/dev").glob(names))) for names in ("accel[0-9]*", "vfio/[0-9]*"))


def start_processes(env: Mapping[str, str] | None = None) -> None:
    """Joins the other processes; call it before anything touches a device. With one process it does nothing,
    nor does it a second time. Raises InputError as `this_process`, and where "auto" finds no address."""
    env = os.environ if env is None else env
    index, count, coordinator = this_process(env)
    if not coordinator or jax.distributed.is_initialized():
        return
    # Under Slurm and Open MPI, JAX takes one GPU a process, the one with its number on the host, unless the
    # list of devices is given; an empty one is given, and restricts nothing. So for any coordinator.
    gpus = own_gpus(env, visible_gpus(env))
    try:
        jax.distributed.initialize(None if coordinator == AUTO else coordinator, count, index, gpus)
    except ValueError as error:
        raise InputError(f"process {index} of {count}: {error} Give --coordinator=host:port") from error
    # `this_process` and JAX must agree: shares of problems go by the first, rows of a batch by the second.
    if (seen := (jax.process_index(), jax.process_count())) != (index, count):
        raise InputError(
            f"process {index} of {count}, but JAX found {seen[0]} of {seen[1]}: give each process "
            "the index that JAX gives it (a TPU's worker number)"
        )


def stay_alone() -> None:
    """Instead of start_processes: this process works on its own accelerators, and does not wait for the
    others. Call it before anything touches a device. No TPU has seen it yet: its variables are tested."""
    rank = this_process()
    if rank.count == 1:
        return
    # The rank is written down first: what tells libtpu of one host hides it.
    os.environ.update(zip(OWN, (str(rank.count), str(rank.index)), strict=True))
    if gpus := own_gpus(os.environ, visible_gpus(os.environ)):
        jax.config.update("jax_cuda_visible_devices", ",".join(map(str, gpus)))
    if (chips := tpu_chips()) and "TPU_VISIBLE_CHIPS" not in os.environ:  # who sets it, describes his host
        alone = one_tpu_host(chips, os.environ)
        for name in [name for name in os.environ if name.startswith("MEGASCALE_") or name in TPU_HOSTS]:
            del os.environ[name]
        os.environ.update(alone)


def one_tpu_host(chips: int, env: Mapping[str, str]) -> dict[str, str]:
    """The variables by which libtpu takes a host of a slice, with `chips` chips, for a slice of its own.
    Without them it waits for the slice's other hosts. InputError where the chips' grid is not known."""
    grid = env.get("TPU_CHIPS_PER_HOST_BOUNDS") or CHIPS.get(chips)
    if grid is None:
        raise InputError(f"{chips} TPU chips on this host: set TPU_CHIPS_PER_HOST_BOUNDS to their grid")
    return {
        "TPU_PROCESS_BOUNDS": "1,1,1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": grid,
        "TPU_VISIBLE_CHIPS": ",".join(map(str, range(chips))),
        "TPU_WORKER_ID": "0",
        "CLOUD_TPU_TASK_ID": "0",
        "TPU_WORKER_HOSTNAMES": "localhost",
    }


def has_joined() -> bool:
    """Whether this process is one of several of one JAX program."""
    return jax.distributed.is_initialized() and this_process().count > 1


def tell(key: str) -> None:
    """Says `key` to all processes at JAX's coordinator; where they have not joined, does nothing."""
    if has_joined():
        distributed.global_state.client.key_value_set(key, "told", allow_overwrite=True)


def until_told(key: str, seconds: float) -> bool:
    """Waits until some process has said `key`, for so long at most; whether it has."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # not yet; or no coordinator any more
        return bool(distributed.global_state.client.blocking_key_value_get(key, int(1000 * seconds)))
    return False


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
