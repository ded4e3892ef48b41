"""The files that launch/pods.py makes, read as a cluster would (linters and schemas: test_pod_files.py)."""

import os
import pathlib
import shlex
import subprocess
import sys

import pytest
import yaml
from pod_cases import CASES, DEFAULT, NAMES, SEARCH, TRAIN
from render import ROOT, rendered

REFUSED = [  # (target, settings, a part of what is said)
    ("slurm", {"hardware": "h100"}, "hardware 'h100': wanted <gpu>:<GPUs of a node>"),
    ("slurm", {"hardware": "h100:0"}, "wanted <gpu>"),
    ("slurm", {"hardware": "v5p:2x2x2"}, "Slurm has nodes of GPUs or CPUs"),
    ("slurm", {"slices": 2}, "slices 2: h100 machines have none; set nodes"),
    ("slurm", {"nodes": 0}, "nodes: saw 0, wanted 1 or more"),
    ("slurm", {"restarts": -1}, "restarts: saw -1, wanted 0 or more"),
    ("slurm", {"workdir": "runs/x"}, "workdir 'runs/x': wanted a path from / on"),
    ("slurm", {"command": "python launch/search.py"}, "wanted a script and its flags"),
    ("slurm", {"command": "launch/search.py 'a"}, "command"),
    ("slurm", {"command": "launch/search.py --workdir=/a"}, "saw --workdir=/a, which is set here"),
    ("slurm", {"env": ["1A=2"]}, "env: saw '1A=2', wanted NAME=value"),
    ("jobset", {"hardware": "v5p:4x4"}, "wanted a topology such as v5p:2x2x2"),
    ("jobset", {"hardware": "v5e:3x5"}, "wanted a topology such as v5e:4x4"),
    ("jobset", {"hardware": "v5e:0x4"}, "wanted a topology"),
    ("jobset", {"name": "My_Job"}, "name 'My_Job': wanted at most 40 small letters"),
    ("jobset", {"name": "a" * 41}, "at most 40"),
    ("jobset", {"queue": "My queue"}, "queue 'My queue'"),
    ("jobset", {"volume": "s3://b"}, "volume 's3://b': wanted nfs:<server>:<path>"),
    ("jobset", {"volume": "nfs:/runs"}, "volume 'nfs:/runs': wanted nfs:<server>:<path>"),
    ("jobset", {"mesh": "fsdp=7"}, "mesh 'fsdp=7' has 7 devices, there are 16"),
    ("jobset", {"hardware": "v6e:4x4", "slices": 2, "mesh": "fsdp=32"}, "make data a multiple of 2"),
    ("search", {"hardware": "v5p:2x2x4"}, "a slice of one host"),
    ("tpu_vm", {"hardware": "h100:8"}, "no TPU VM has h100:8"),
    ("tpu_vm", {"hardware": "v5p:2x2x2", "volume": "pvc:a"}, "claims are Kubernetes's"),
    ("ray", {"hardware": "v6e:4x4"}, "another order than JAX"),
    ("xpk", {"hardware": "cpu:8"}, "xpk has TPUs and GPUs here"),
    ("skypilot", {}, "SkyPilot mounts buckets"),
    ("skypilot", {"hardware": "v6e:4x4", "slices": 2, "volume": "gs://b"}, "SkyPilot has one slice"),
]


@pytest.fixture(scope="module")
def files():
    """Case -> (file, text, command)."""
    made = rendered(CASES)
    assert all(isinstance(found, list) for found in made), made
    return dict(zip(NAMES, made, strict=True))


@pytest.fixture(scope="module")
def refusals():
    return rendered([(target, settings) for target, settings, _ in REFUSED])


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=[said for _, _, said in REFUSED])
def test_settings_that_do_not_go_together_are_refused_in_a_line(refusals, number):
    assert REFUSED[number][2] in refusals[number] and "\n" not in refusals[number]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_complete_and_commented(files, name):
    file, text, command = files[name]
    assert text.startswith(("#!/bin/bash\n# ", "# ")) and text.count("# ") > 4 and "{{" not in text
    assert "{file}" in command or name.startswith("image")


NOTE = '#!/bin/bash\nprintf "%q " "$@" > "$NOTED"\n'


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("-")[0] in ("slurm", "xpk", "ray")])
def test_a_script_hands_the_whole_command_on(files, name, tmp_path):
    """Its last program, which starts the processes elsewhere, notes its words instead."""
    for program in ("srun", "xpk", "ray"):
        (tmp_path / program).write_text(NOTE, encoding="utf-8")
        (tmp_path / program).chmod(0o755)
    text = files[name][1].replace("cd /mnt/o1jax/o1jax", f"cd {tmp_path}")
    slurm = {"SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "a"}
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTED": str(tmp_path / "noted"), **slurm}
    done = subprocess.run(["bash"], input=text, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = shlex.split((tmp_path / "noted").read_text(encoding="utf-8"))
    if name.startswith("xpk"):
        words = shlex.split(next(word for word in words if word.startswith("--command="))[10:])
    settings = dict(zip(NAMES, CASES, strict=True))[name][1]
    command = shlex.split(settings.get("command", DEFAULT))
    begins = words.index(command[0])
    assert words[begins : begins + len(command)] == command
    assert "--workdir=/mnt/o1jax/runs/policy_sft" in words[begins:]


def containers(text):
    """(a pod's container, its job, its other documents) of JobSets and Jobs."""
    *others, job = yaml.safe_load_all(text)
    if job["kind"] == "JobSet":
        job = job["spec"]["replicatedJobs"][0]["template"]
    return job["spec"]["template"]["spec"]["containers"][0], job["spec"], others


@pytest.mark.parametrize("name", [name for name in NAMES if name.split("-")[0] in ("jobset", "search")])
def test_a_pod_runs_the_command_and_knows_its_rank(files, name):
    settings = dict(zip(NAMES, CASES, strict=True))[name][1]
    container, job, _ = containers(files[name][1])
    unescaped = [word.replace("$$(", "$(") for word in container["command"]]
    assert unescaped[:2] == ["python", shlex.split(settings.get("command", DEFAULT))[0]]
    if "command" in settings:
        assert unescaped[1:-1] == shlex.split(settings["command"])
    assert unescaped[-1].startswith("--workdir=/")
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    if name.startswith("jobset-v"):
        assert env["O1JAX_COORDINATOR"] == "auto" and "O1JAX_PROCESSES" not in env
    else:
        assert env["O1JAX_PROCESSES"] == str(job["completions"]) and "O1JAX_PROCESS_INDEX" in env
    assert job["parallelism"] == job["completions"]  # today's shares wait for one another
    if "A=$(B)" in settings.get("env", ()):
        assert env["A"] == "$$(B)"  # Kubernetes puts nothing in its place


@pytest.mark.parametrize(
    "name, hosts, chips",
    [
        ("jobset-v5p:2x2x4", 4, 4),
        ("jobset-v6e:4x4", 4, 4),
        ("search-v5e:2x4", 16, 8),
        ("jobset-h100:8", 4, 8),
    ],
)
def test_hosts_and_chips_follow_from_the_hardware(files, name, hosts, chips):
    container, job, _ = containers(files[name][1])
    (limit,) = container["resources"]["limits"].values()
    assert (job["completions"], int(limit)) == (hosts, chips)


def test_a_search_begins_from_the_names_of_its_pods(files):
    container, _, (service,) = containers(files["search-h100:1"][1])
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"] == {"job-name": "search"}
    assert {"name": "O1JAX_COORDINATOR", "value": "search-0.search:8476"} in container["env"]


def test_a_container_is_named_as_pyxis_wants_it(files):
    text = files["slurm-h200:8"][1]
    assert (
        "--container-image='us-docker.pkg.dev#my-project/o1jax/o1jax:latest'" in text and "\ncd " not in text
    )


def test_slices_put_data_across_them(files):
    container, _, _ = containers(files["jobset-v6e:4x4"][1])
    env = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (env["O1JAX_MESH"], env["O1JAX_SLICES"]) == ("data=4,fsdp=16", "4")


REMOTE = {  # what the script finds on the hosts of a slice of two
    "gcloud": """#!/bin/bash
echo "gcloud $*" >> "$NOTED"
for last; do :; done
[[ $4 == ssh ]] || exit 0
for worker in 0 1; do WORKER=$worker bash -c "${last#--command=}"; done
""",
    "sudo": '#!/bin/bash\nexec "$@"\n',
    "curl": '#!/bin/bash\nprintf %s "$WORKER"\n',
    # one write a line: the slices write at once
    "docker": """#!/bin/bash\nprintf '%s\\n' "$(printf '%q ' docker "$@")" >> "$NOTED"\n""",
}


@pytest.fixture
def tpu_vm(files, tmp_path):
    """Runs the script for two slices with a subcommand; the lines that gcloud and the hosts' docker got."""
    for name, text in REMOTE.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "run.sh").write_text(
        files["tpu_vm-v6e:4x4"][1].replace("HOSTS=4", "HOSTS=2"), encoding="utf-8"
    )

    def run(word):
        env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTED": str(tmp_path / "noted")}
        done = subprocess.run(["bash", tmp_path / "run.sh", word], env=env, capture_output=True, text=True)
        assert not done.returncode, done.stderr
        return (tmp_path / "noted").read_text(encoding="utf-8").splitlines()

    return run


def test_every_host_of_every_slice_is_a_process(tpu_vm):
    started = [shlex.split(line) for line in tpu_vm("run") if line.startswith("docker run")]
    ranks = sorted(
        next(word for word in words if word.startswith("--env=O1JAX_PROCESS_INDEX")) for words in started
    )
    assert ranks == [f"--env=O1JAX_PROCESS_INDEX={rank}" for rank in range(4)]
    for words in started:
        command = words[words.index("python") + 1 :]
        assert command[:-1] == shlex.split(TRAIN) and "--env=O1JAX_PROCESSES=4" in words


def test_tpu_vms_are_asked_for_by_slice(tpu_vm):
    (asked,) = tpu_vm("queue")
    assert "queued-resources create o1jax" in asked and "--node-count=2 --node-prefix=o1jax" in asked
    assert "--accelerator-type=v6e-16" in asked and "--spot" in asked


def run_pods(*arguments, **more):
    command = [sys.executable, str(ROOT / "launch" / "pods.py"), *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_a_file_is_printed_and_written_and_submitted_only_when_asked(tmp_path):
    for name in ("sbatch", "mkdir"):
        (tmp_path / name).write_text(f'#!/bin/bash\necho {name} "$@" >> {tmp_path}/ran\n', encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    flags = (f"--workdir={tmp_path}/files", "--config.nodes=3")
    done = run_pods("slurm", *flags, **path)
    written = (tmp_path / "files/o1jax.sbatch").read_text(encoding="utf-8")
    assert done.returncode == 0 and done.stdout.strip() == written.strip() and "#SBATCH --nodes=3" in written
    assert f"sbatch {tmp_path}/files/o1jax.sbatch" in done.stderr and not (tmp_path / "ran").exists()
    assert run_pods("slurm", *flags, "--submit", **path).returncode == 0
    ran = (tmp_path / "ran").read_text(encoding="utf-8").splitlines()
    assert ran == ["mkdir -p /mnt/o1jax/logs", f"sbatch {tmp_path}/files/o1jax.sbatch"]


@pytest.mark.parametrize("arguments", [(), ("slum",), ("slurm", "--config.node=3")])
def test_a_wrong_word_ends_in_a_line(arguments, tmp_path):
    done = run_pods(*arguments, f"--workdir={tmp_path}")
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_the_page_and_the_image_name_what_is_there():
    dockerfile = (ROOT / "launch/pods/Dockerfile").read_text(encoding="utf-8")
    locks = {path.stem for path in pathlib.Path(ROOT, "third_party/constraints").glob("*.txt")}
    assert {"cpu", "gpu-cuda12", "gpu-cuda13", "tpu"} <= locks
    copied = [
        word for line in dockerfile.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]
    ]
    ignored = (ROOT / "launch/pods/Dockerfile.dockerignore").read_text(encoding="utf-8")
    assert all((ROOT / name).exists() and f"!{name}\n" in ignored for name in copied)
    assert SEARCH["command"].split()[0] == "launch/search.py"
