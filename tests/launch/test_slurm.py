"""Two ranks under a real Slurm (virtual_slurm.py), from the file that launch/pods.py makes: started by
sbatch, trained as one program by --coordinator=auto, ended by Slurm's signal, requeued, gone on with."""

import pathlib
import subprocess
import sys
import time

import pytest
import several_stages
import virtual_slurm
from etils import epath
from render import ROOT, rendered
from virtual_slurm import said, until

from o1jax.stages.manifest import read_manifest

pytestmark = [
    pytest.mark.pods,
    pytest.mark.skipif(bool(virtual_slurm.missing()), reason=f"Slurm: {virtual_slurm.missing()}"),
]
ENDS = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")
# A node refuses a job that begins anew within the second or so in which its last try was taken from it.
SETTLED_S = 4
PROBE = """
import pathlib, signal, sys, time
from o1jax.parallel.processes import this_process
rank = this_process()
tries = pathlib.Path(sys.argv[1].removeprefix("--workdir=")) / f"tries.{rank.index}_of_{rank.count}"
tries.open("a").write("try\\n")
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
if len(tries.read_text().splitlines()) == 1:
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment of Slurm's commands, and of the jobs."""
    with virtual_slurm.started(tmp_path_factory.mktemp("slurm")) as env:
        yield env | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}


def submitted(slurm, directory: pathlib.Path, **settings) -> str:
    """The number of the job that runs the settings' command on two nodes, with files in `directory`."""
    given = {"hardware": "cpu:1", "nodes": 2, "code": str(ROOT), "python": sys.executable, "volume": ""}
    ((file, text, _),) = rendered([("slurm", given | {"mount": str(directory), **settings})])
    (directory / "logs").mkdir()
    (directory / file).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["sbatch", directory / file], env=slurm, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def state(slurm, job: str) -> dict[str, str]:
    """What scontrol says of a job."""
    words = said(["scontrol", "--oneliner", "show", "job", job], slurm).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def ended(slurm, job: str, directory: pathlib.Path, seconds: float, as_state: str = "COMPLETED") -> str:
    """Waits for the end of a job, requeued or not; its log."""
    end, waits_since = time.monotonic() + seconds, 0.0
    while True:
        now = state(slurm, job)
        log = "".join(path.read_text(encoding="utf-8") for path in (directory / "logs").glob("*.log"))
        # Until it waits again, a job that was requeued is shown as failed: then a try is missing in its log.
        if now.get("JobState") in ENDS and log.count("; requeued") < log.count(", try "):
            break
        assert time.monotonic() < end, now
        if now.get("Reason") != "BeginTime":
            waits_since = 0.0
        elif not waits_since:
            waits_since = time.monotonic()
        elif time.monotonic() > waits_since + SETTLED_S:  # Slurm lets a requeued job wait for two minutes
            said(["scontrol", "update", f"JobId={job}", "StartTime=now"], slurm)
        time.sleep(0.5)
    assert now["JobState"] == as_state, log
    return log


def test_two_ranks_train_one_model_from_sbatch(slurm, tmp_path):
    several_stages.build(epath.Path(tmp_path))
    flags = {
        "inputs.policy": tmp_path / "policy",
        "inputs.found_0": tmp_path / "trees_0",
        "inputs.references": "",
        "policy_sft.train_tokens": 2000,
        "policy_sft.train.model": "",
        "policy_sft.train.row_length": 256,
        "policy_sft.train.rows_per_batch": 4,
    }
    command = "launch/policy_sft.py --config=configs/policy_sft.py:nano " + " ".join(
        f"--config.{name}={value}" for name, value in flags.items()
    )
    job = submitted(slurm, tmp_path, command=command, workdir=str(tmp_path / "sft"))
    log = ended(slurm, job, tmp_path, 120)
    assert "Rank 0 is connected to 1 peer ranks" in log and "try 1" in log, log
    assert read_manifest(epath.Path(tmp_path / "sft"))["figures"]["trained_tokens"] > 0


def test_a_job_at_the_end_of_its_time_is_requeued_and_goes_on(slurm, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    settings = {
        "command": f"{tmp_path}/probe.py",
        "workdir": str(tmp_path),
        "time": "00:01:00",
        "grace_s": 50,
    }
    env = slurm | {"O1JAX_COORDINATOR": "auto"}  # by the variable: the probe knows no flags of processes
    job = submitted(env, tmp_path, **settings)
    log = ended(slurm, job, tmp_path, 150)
    assert "exit code 143; requeued" in log and "try 2" in log, log
    for rank in range(2):
        assert (tmp_path / f"tries.{rank}_of_2").read_text(encoding="utf-8") == "try\ntry\n"


def test_a_killed_rank_ends_the_other_and_the_job_begins_anew(slurm, tmp_path):
    (tmp_path / "probe.py").write_text(PROBE, encoding="utf-8")
    env = slurm | {"O1JAX_COORDINATOR": "auto"}
    job = submitted(env, tmp_path, command=f"{tmp_path}/probe.py", workdir=str(tmp_path))
    until(lambda: len(list(tmp_path.glob("tries.*"))) == 2, 60)
    listed = said(["pgrep", "--full", f"{tmp_path}/probe.py --workdir"], slurm).split()
    mine = [pid for pid in listed if b"python" in pathlib.Path(f"/proc/{pid}/exe").readlink().name.encode()]
    said(["kill", "-KILL", mine[0]], slurm)
    log = ended(slurm, job, tmp_path, 120)
    assert "requeued" in log and "try 2" in log, log


def test_wrong_flags_do_not_begin_anew_for_ever(slurm, tmp_path):
    wrong = {"command": "launch/policy_sft.py --config.sed=1", "workdir": str(tmp_path / "sft")}
    job = submitted(slurm, tmp_path, **wrong)
    log = ended(slurm, job, tmp_path, 180, as_state="FAILED")
    assert "config.sed" in log and "try 3" in log and "try 4" not in log, log
