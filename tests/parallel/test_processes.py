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
    report_slow,
    reporting_slow,
    start_processes,
    this_process,
)
from o1jax.records import InputError

REPOSITORY = pathlib.Path(__file__).parents[2]
PROGRAM = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
from o1jax.parallel.processes import barrier, is_leader, start_processes
start_processes()
barrier("started")
found = (jax.process_index(), jax.process_count(), is_leader(), len(jax.devices()))
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


def by_variables(index: int, port: int) -> dict[str, str]:
    here = {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESSES": "2"}
    return here | {"O1JAX_PROCESS_INDEX": str(index)}


def by_slurm(index: int, port: int) -> dict[str, str]:
    """What srun sets; JAX makes the coordinator's port from the job's number."""
    here = {"O1JAX_COORDINATOR": "auto", "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost"}
    return here | {"SLURM_NTASKS": "2", "SLURM_PROCID": str(index), "SLURM_LOCALID": str(index)}


@pytest.mark.parametrize("describe", [by_variables, by_slurm])
def test_two_processes_find_each_other_by_environment(describe):
    port = free_port()
    shared = {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
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
    assert found == [["found 0 2 True 4"], ["found 1 2 False 4"]]
