"""The files of launch/pods by linters, by schemas, and by xpk, SkyPilot and Ray themselves, where they are.

make test-pods installs all of them; SCHEDULERS_AT is the directory with an environment of its own for each.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import pytest
import yaml
from pod_cases import CASES, NAMES
from render import ROOT, rendered
from schemas import JOBSET, KUEUE
from virtual_slurm import free_ports, until

pytestmark = pytest.mark.pods
KUBERNETES = "1.34"  # the oldest whose fields are used here: GKE's regular channel has it or a newer one
TOOLS = pathlib.Path(os.environ.get("SCHEDULERS_AT", ROOT / ".venv-pods"))
PINS = re.findall(
    r"^(?:# )?([\w.\[\]-]+==\S+)$", (ROOT / "third_party/constraints/pods.txt").read_text(), re.MULTILINE
)


@pytest.fixture(scope="module")
def files():
    """Case -> (file, text, command)."""
    return dict(zip(NAMES, rendered(CASES), strict=True))


def of(*targets):
    return [name for name in NAMES if name.split("-")[0] in targets]


def program(name: str, tool: str = "") -> str:
    """The path of a linter beside this Python, or of a program in a tool's own environment; skips without."""
    where = TOOLS / tool / "bin" if tool else pathlib.Path(sys.executable).parent
    path = shutil.which(name, path=str(where))
    if path is None:
        pytest.skip(f"no {name} in {where}: make test-pods")
    return path


@pytest.mark.parametrize("name", of("slurm", "xpk", "tpu_vm", "ray"))
def test_shellcheck_finds_nothing(files, name):
    # SC2016: a command's own words stay as they are, whatever is in them
    command = [
        program("shellcheck"),
        "--shell=bash",
        "--enable=quote-safe-variables",
        "--exclude=SC2016",
        "-",
    ]
    done = subprocess.run(command, input=files[name][1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_nothing():
    dockerfile = ROOT / "launch/pods/Dockerfile"
    done = subprocess.run([program("hadolint"), dockerfile], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def check_job(spec, name):
    """By Kubernetes's own schemas, which allow no unknown field."""
    validate = pytest.importorskip("kubernetes_validate").validate
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec}
    validate(job, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", of("jobset"))
def test_a_jobset_is_one_by_its_schema_and_its_jobs_are_jobs(files, name):
    document = yaml.safe_load(files[name][1])
    pytest.importorskip("jsonschema").validate(document, JOBSET)
    for job in document["spec"]["replicatedJobs"]:
        check_job(job["template"]["spec"], job["name"])


@pytest.mark.parametrize("name", of("search"))
def test_an_indexed_job_and_its_service_are_kubernetes_own(files, name):
    validate = pytest.importorskip("kubernetes_validate").validate
    service, job = yaml.safe_load_all(files[name][1])
    validate(service, KUBERNETES, strict=True)
    validate(job, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", of("kueue"))
def test_a_queue_is_three_objects_of_kueue(files, name):
    documents = list(yaml.safe_load_all(files[name][1]))
    assert [document["kind"] for document in documents] == list(KUEUE)
    for document in documents:
        pytest.importorskip("jsonschema").validate(document, KUEUE[document["kind"]])


def test_the_schemas_refuse_what_they_do_not_know(files):
    jsonschema = pytest.importorskip("jsonschema")
    document = yaml.safe_load(files["jobset-h100:8"][1])
    document["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(document, JOBSET)
    spec = document["spec"]["replicatedJobs"][0]["template"]["spec"] | {"paralelism": 2}
    with pytest.raises(pytest.importorskip("kubernetes_validate").ValidationError, match="paralelism"):
        check_job(spec, "workers")


@pytest.mark.parametrize("name", of("xpk"))
def test_xpk_makes_the_same_job_of_its_command(files, name, tmp_path):
    xpk = program("xpk", "xpk")
    (tmp_path / "run.sh").write_text(files[name][1], encoding="utf-8")
    env = {"PATH": f"{pathlib.Path(xpk).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    flags = ("--dry-run", "--skip-validation", f"--output-manifest-file={tmp_path}/job.yaml")
    done = subprocess.run(["bash", tmp_path / "run.sh", *flags], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    settings = dict(zip(NAMES, CASES, strict=True))[name][1]
    ((_, text, _),) = rendered([("jobset", settings)])
    assert shape((tmp_path / "job.yaml").read_text(encoding="utf-8")) == shape(text)


def shape(text):
    """What two JobSets of the same processes agree in."""
    spec = yaml.safe_load(text)["spec"]
    (job,) = spec["replicatedJobs"]
    inner = job["template"]["spec"]
    pod = inner["template"]["spec"]
    (container,) = pod["containers"]
    machines = pod.get("nodeSelector") or {}
    return {
        "restarts": spec["failurePolicy"]["maxRestarts"],
        "jobs": [job["replicas"], inner["completions"], inner["parallelism"], inner["backoffLimit"]],
        "slices": {
            key: value for key, value in machines.items() if "gke-tpu" in key
        },  # xpk's label GPUs apart
        "chips": {key: int(value) for key, value in container["resources"]["limits"].items()},
        "restart": pod.get("restartPolicy"),
    }


@pytest.mark.parametrize("name", of("skypilot"))
def test_skypilot_reads_the_task(files, name, tmp_path):
    python = program("python", "skypilot")
    (tmp_path / "task.yaml").write_text(files[name][1], encoding="utf-8")
    read = (
        "import json, sys, yaml; from sky import task; from sky.utils import common_utils, schemas\n"
        "config = yaml.safe_load(open(sys.argv[1]))\n"
        "common_utils.validate_schema(config, schemas.get_task_schema(), 'task: ')\n"
        "common_utils.validate_schema(config['resources'], schemas.get_resources_schema(), 'resources: ')\n"
        "made = task.Task.from_yaml_config({**config, 'file_mounts': None})\n"
        "print(json.dumps([made.num_nodes, [str(r.accelerators) for r in made.resources]]))\n"
    )
    env = os.environ | {"HOME": str(tmp_path), "SKYPILOT_DISABLE_USAGE_COLLECTION": "1"}
    done = subprocess.run(
        [python, "-c", read, str(tmp_path / "task.yaml")], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    nodes, (accelerators,) = json.loads(done.stdout.splitlines()[-1])
    document = yaml.safe_load(files[name][1])
    assert nodes == document["num_nodes"]
    assert document["resources"].get("accelerators", "None").split(":")[0] in accelerators


@pytest.fixture
def short_directory():
    """Ray's sockets are in it, whose paths may have 107 letters."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as directory:
        yield directory


def test_ray_starts_the_processes_and_begins_anew(tmp_path, short_directory):
    """Two nodes of Ray on this machine; the first try of process 1 fails, and ends process 0 too."""
    ray = program("ray", "ray")
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import os, pathlib, sys, time\n"
        "rank = os.environ['O1JAX_PROCESS_INDEX']\n"
        "mine = pathlib.Path(sys.argv[1]) / f'tries.{rank}'\n"
        "said = [os.environ['O1JAX_COORDINATOR'], os.environ['O1JAX_PROCESSES']]\n"
        "mine.open('a').write(' '.join(said) + '\\n')\n"
        "if len(mine.read_text().splitlines()) == 1:\n"
        "    time.sleep(3 if rank == '1' else 300)\n"
        "    sys.exit(7)\n"
    )
    env = os.environ | {"RAY_ENABLE_MULTI_NODE_ON_ONE_HOST": "1", "HOME": str(tmp_path)}
    env.pop("PYTHONPATH", None)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    start = [ray, "start", "--block", "--num-cpus=1", "--disable-usage-stats"]
    head = ["--head", f"--port={address[10:]}", "--include-dashboard=false", f"--temp-dir={short_directory}"]
    driver = [
        pathlib.Path(ray).parent / "python",
        ROOT / "launch/pods/ray_job.py",
        "--nodes=2",
        "--restarts=1",
    ]
    with contextlib.ExitStack() as stack, open(tmp_path / "ray.log", "w", encoding="utf-8") as log:
        for flags in (head, [f"--address={address}"]):
            node = subprocess.Popen([*start, *flags], env=env, stdout=log, stderr=log)
            stack.callback(node.wait)
            stack.callback(
                node.terminate
            )  # with --block its programs end with it; `ray stop` ends everybody's
            until(lambda: "Ray runtime started" in (tmp_path / "ray.log").read_text(encoding="utf-8"), 60)
        done = subprocess.run(
            [*driver, "--grace_s=5", "--", probe, tmp_path],
            env=env | {"RAY_ADDRESS": address},
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ended with exit code 7" in done.stderr
    for rank in range(2):
        lines = (tmp_path / f"tries.{rank}").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 2 and lines[0].endswith(":8476 2")


@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("lock", ["gpu-cuda12", "gpu-cuda13", "tpu"])
def test_the_wheels_of_a_lock_are_there(lock, python):
    """Of what it adds to cpu.txt, which every other test installs. That they fit together, pip says only when
    it has downloaded them: the command is in the lock."""
    text = (ROOT / "third_party/constraints" / f"{lock}.txt").read_text(encoding="utf-8")
    pins = [line.split("==") for line in re.findall(r"^[\w.-]+==\S+$", text, re.MULTILINE)]
    command = [sys.executable, "-m", "pip", "index", "versions", "--only-binary=:all:"]
    gone = []
    for name, version in pins:
        done = subprocess.run(
            [*command, f"--python-version={python}", name], capture_output=True, text=True, check=False
        )
        if version not in re.findall(r"[\w.+]+", done.stdout):
            gone.append(f"{name}=={version}: {done.stdout[:200]}{done.stderr[-200:]}")
    assert len(pins) > 1 and not gone, gone


def test_the_makefile_installs_what_is_pinned():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert len(PINS) == 7 and "third_party/constraints/pods.txt" in makefile
