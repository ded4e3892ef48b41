import os
import pathlib
import re
import socket
import subprocess
import sys

import jax
import pytest

from o1jax.parallel import processes
from o1jax.parallel.processes import (
    barrier,
    compute_environment,
    is_leader,
    one_tpu_host,
    own_gpus,
    report_slow,
    reporting_slow,
    start_processes,
    stay_alone,
    this_process,
    visible_gpus,
)
from o1jax.records import InputError

AUTO = {"O1JAX_COORDINATOR": "auto"}
REPOSITORY = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
from o1jax.parallel.processes import barrier, is_leader, start_processes
start_processes()
barrier("started")
gpus = jax.config.values["jax_cuda_visible_devices"]
found = (jax.process_index(), jax.process_count(), is_leader(), len(jax.devices()), gpus)
sys.stdout.write("\\nfound " + " ".join(map(str, found)) + "\\n")  # at once: others write there too
sys.stdout.flush()
barrier("done")
"""


def test_alone_nothing_starts_and_barriers_return():
    start_processes({})
    barrier("alone")
    assert (jax.process_index(), jax.process_count(), is_leader()) == (0, 1, True)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"O1JAX_PROCESSES": "2"},
        {"O1JAX_PROCESSES": "2", "O1JAX_PROCESS_INDEX": "2"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},  # which only "auto" reads
    ],
)
def test_half_a_description_is_refused(env):
    with pytest.raises(InputError, match="O1JAX_PROCESS_INDEX"):
        start_processes({"O1JAX_COORDINATOR": "localhost:1234"} | env)


def test_a_process_knows_its_place_without_the_others():
    slurm = {"O1JAX_COORDINATOR": "auto", "SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    assert this_process(slurm) == (3, 4, "auto")
    assert this_process(slurm | {"O1JAX_PROCESSES": "2", "O1JAX_PROCESS_INDEX": "0"}) == (0, 2, "auto")
    not_asked_to_join = {"SLURM_NTASKS": "4", "SLURM_PROCID": "3"}
    assert this_process(not_asked_to_join) == (0, 1, "")
    ranks = {"OMPI_COMM_WORLD_SIZE": "16", "OMPI_COMM_WORLD_RANK": "9"}
    batch_script = {"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}  # which every rank of mpirun inherits
    assert this_process(AUTO | batch_script | ranks) == (9, 16, "auto")


@pytest.mark.parametrize("hosts", ["TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"])
def test_hosts_of_tpu_slices_are_counted_slice_by_slice(hosts):
    one = AUTO | {"TPU_WORKER_ID": "3", hosts: "a,b,c,d"}
    assert this_process(one) == (3, 4, "auto")
    two = one | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
    assert this_process(two) == (7, 8, "auto")
    assert this_process(AUTO | {"TPU_WORKER_ID": "0", hosts: "localhost"}) == (0, 1, "auto")
    with pytest.raises(InputError, match="O1JAX_PROCESS_INDEX"):
        this_process(AUTO | {hosts: "a,b,c,d"})


def by_srun(tasks: str, node: int, local: int) -> dict[str, str]:
    return {"SLURM_STEP_TASKS_PER_NODE": tasks, "SLURM_NODEID": str(node), "SLURM_LOCALID": str(local)}


def by_ranks(count: int, local: int) -> dict[str, str]:
    return {"OMPI_COMM_WORLD_LOCAL_SIZE": str(count), "OMPI_COMM_WORLD_LOCAL_RANK": str(local)}


@pytest.mark.parametrize(
    "env, visible, gpus",
    [
        ({}, 8, ()),
        (by_srun("1(x4)", 2, 0), 8, ()),  # one task a node takes all
        (by_srun("2(x3),1", 3, 0), 8, ()),
        (by_srun("2(x3),1", 2, 1), 8, (4, 5, 6, 7)),
        (by_srun("8(x2)", 1, 7), 8, (7,)),
        (by_srun("8(x2)", 1, 7) | {"SLURM_GPUS_PER_TASK": "1"}, 1, ()),  # Slurm shows it one
        (by_srun("8(x2)", 1, 7), 1, ()),  # a wrapper shows it one
        (by_srun("8(x2)", 1, 7), 0, ()),  # there are none
        (by_ranks(1, 0), 8, ()),
        (by_ranks(4, 1) | by_srun("1(x4)", 0, 0), 8, (2, 3)),
        (by_ranks(4, 1) | {"JAX_LOCAL_DEVICE_IDS": "5,6"}, 8, (5, 6)),
    ],
)
def test_the_gpus_of_a_host_are_shared_out_whole(env, visible, gpus):
    assert own_gpus(env, visible) == gpus


def test_gpus_that_do_not_divide_are_refused():
    with pytest.raises(InputError, match="3 processes on this host and 8 GPUs"):
        own_gpus(by_ranks(3, 0), 8)


def test_gpus_are_counted_as_cuda_would_show_them():
    for listed, count in {"0,1,2": 3, "GPU-1a,GPU-2b": 2, "": 0, "-1": 0, "NoDevFiles": 0}.items():
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": listed}) == count


def test_a_process_that_does_not_join_takes_its_own_gpus_alone(monkeypatch):
    two_tasks = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    monkeypatch.setattr(os, "environ", AUTO | two_tasks | by_srun("2", 0, 1))
    try:
        stay_alone()
        assert jax.config.values["jax_cuda_visible_devices"] == "2,3"
    finally:
        jax.config.update("jax_cuda_visible_devices", "all")


def test_a_host_of_a_slice_is_described_as_a_slice_of_its_own(monkeypatch):
    gke = {"TPU_WORKER_ID": "2", "TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_PROCESS_BOUNDS": "2,2,1"}
    slices = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1", "MEGASCALE_COORDINATOR_ADDRESS": "a"}
    environment = AUTO | gke | slices
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(processes, "tpu_chips", lambda: 4)
    stay_alone()
    assert (environment["TPU_PROCESS_BOUNDS"], environment["TPU_CHIPS_PER_PROCESS_BOUNDS"]) == (
        "1,1,1",
        "2,2,1",
    )
    assert (
        environment["TPU_VISIBLE_CHIPS"] == "0,1,2,3" and environment["TPU_WORKER_HOSTNAMES"] == "localhost"
    )
    assert not [name for name in environment if name.startswith("MEGASCALE")]
    assert this_process() == (6, 8, "auto")  # it still knows its share of the problems
    stay_alone()
    assert this_process() == (6, 8, "auto")
    with pytest.raises(InputError, match="TPU_CHIPS_PER_HOST_BOUNDS"):
        one_tpu_host(3, {})


def test_what_was_slow_is_reported_by_process_0_alone(capsys, monkeypatch):
    report_slow("reading weights: 3.1 GB", 12.34)
    report_slow("compiled the decode step", 1.9)
    assert capsys.readouterr().err == "reading weights: 3.1 GB in 12.3 s\n"
    for name, value in {"COORDINATOR": "host:1", "PROCESSES": "2", "PROCESS_INDEX": "1"}.items():
        monkeypatch.setenv(f"O1JAX_{name}", value)
    report_slow("reading weights: 3.1 GB", 12.34)
    assert capsys.readouterr().err == ""


def test_what_took_long_within_is_reported_unless_told_not_to(capsys, monkeypatch):
    with reporting_slow("compiled the train step"):
        pass
    assert not capsys.readouterr().err
    monkeypatch.setattr(processes, "SLOW_S", 0.0)
    with reporting_slow("loaded the weights", says=False), reporting_slow("compiled the train step"):
        pass
    assert re.fullmatch(r"compiled the train step in \d+\.\d s\n", capsys.readouterr().err)


def test_the_compute_environment_keeps_what_is_set():
    tunables = compute_environment({"HOME": "/"})["GLIBC_TUNABLES"]
    assert "glibc.malloc.hugetlb=1" in tunables.split(":")
    assert compute_environment({"GLIBC_TUNABLES": "mine"}) == {"GLIBC_TUNABLES": "mine"}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


EIGHT_GPUS = {"CUDA_VISIBLE_DEVICES": "0,1,2,3,4,5,6,7"}  # JAX itself would give each process one of them


def by_variables(index: int, port: int) -> dict[str, str]:
    here = {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESSES": "2"}
    return here | {"O1JAX_PROCESS_INDEX": str(index)}


def by_slurm(index: int, port: int) -> dict[str, str]:
    """What srun sets for one task a node; JAX makes the coordinator's port from the job's number."""
    here = AUTO | {"SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    return here | {"SLURM_PROCID": str(index)} | by_srun("1(x2)", index, 0)


def by_slurm_on_one_node(index: int, port: int) -> dict[str, str]:
    return by_slurm(index, port) | by_srun("2", 0, index)


def by_variables_in_a_step(index: int, port: int) -> dict[str, str]:
    return by_slurm(index, port) | by_variables(index, port)


def by_open_mpi(index: int, port: int) -> dict[str, str]:
    """What mpirun sets for one rank a node, in a job of Slurm."""
    here = {"OMPI_MCA_orte_hnp_uri": f"{port * 4096}.0;tcp://127.0.0.1,10.0.0.1:34911"}
    here |= {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": str(index)}
    return by_slurm(0, port) | here | by_ranks(1, 0)


@pytest.mark.parametrize(
    "describe, gpus",
    [
        (by_variables, ["all", "all"]),
        (by_slurm, ["all", "all"]),
        (by_slurm_on_one_node, ["0,1,2,3", "4,5,6,7"]),
        (by_variables_in_a_step, ["all", "all"]),
        (by_open_mpi, ["all", "all"]),
    ],
)
def test_two_processes_find_each_other_and_all_their_gpus_by_environment(describe, gpus):
    port = free_port()
    shared = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"} | EIGHT_GPUS
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | shared | describe(index, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in running]
    found = [  # the collectives library writes lines of its own to stdout
        [line for line in out.splitlines() if line.startswith("found")] or error[-2000:]
        for out, error in outputs
    ]
    assert found == [[f"found 0 2 True 4 {gpus[0]}"], [f"found 1 2 False 4 {gpus[1]}"]]


def test_a_scheduler_that_names_no_first_process_is_said():
    open_mpi_5 = AUTO | {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    program = "from o1jax.parallel.processes import start_processes; start_processes()"
    env = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"} | open_mpi_5
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert "InputError: process 0 of 2: coordinator_address" in done.stderr
    assert "Give --coordinator=host:port" in done.stderr
