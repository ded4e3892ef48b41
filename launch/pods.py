"""Files that start a job on a cluster, made from one page of settings and printed to be read.

    python launch/pods.py slurm --config.nodes=4 --config.hardware=h100:8
    python launch/pods.py jobset --config.hardware=v5p:2x2x4 --config.slices=2 --workdir=runs/pods

Targets: slurm, jobset (GKE: training), search (GKE: an Indexed Job), kueue (its queue), xpk, tpu_vm,
skypilot, ray, image (the Dockerfile). The page is launch/pods/settings.py; beside it are the templates.
The file is written to --workdir, and the command that submits it is printed; nothing is started, unless
--submit is given: then that command is run.
"""

import dataclasses
import json
import math
import pathlib
import re
import shlex
import subprocess
import sys
from typing import Any

import entry
import jinja2
import pages
from absl import flags
from etils import epath

from o1jax.parallel.mesh import sizes_of
from o1jax.records import InputError

HERE = pathlib.Path(__file__).parent / "pods"
SUBMIT = flags.DEFINE_bool("submit", False, "Run the command that submits what was printed.")
TARGETS = {  # -> template, file, command that submits it
    "slurm": ("slurm.sbatch.jinja", "{name}.sbatch", "mkdir -p {logs} && sbatch {file}"),
    "jobset": ("jobset.yaml.jinja", "{name}.yaml", "kubectl apply -f {file}"),
    "search": ("search.yaml.jinja", "{name}.yaml", "kubectl apply -f {file}"),
    "kueue": ("kueue.yaml.jinja", "{queue}-queue.yaml", "kubectl apply -f {file}"),
    "xpk": ("xpk.sh.jinja", "{name}-xpk.sh", "bash {file}"),
    "tpu_vm": ("tpu_vm.sh.jinja", "{name}-tpu.sh", "bash {file} queue"),
    "skypilot": ("skypilot.yaml.jinja", "{name}-sky.yaml", "sky jobs launch {file}"),
    "ray": ("ray.sh.jinja", "{name}-ray.sh", "bash {file}"),
    "image": (
        "Dockerfile",
        "Dockerfile",
        "docker build -f launch/pods/Dockerfile --build-arg LOCK={lock} -t {image} .",
    ),
}


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A generation of TPUs, as Google names it."""

    gke: str  # the node label cloud.google.com/gke-tpu-accelerator
    type: str  # of gcloud's and xpk's accelerator types, before the number
    per_chip: int  # what that number counts of each chip
    dimensions: int  # of a topology
    runtime: str  # of TPU VMs; empty where they are not offered


TPUS = {
    "v4": Tpu("tpu-v4-podslice", "v4", 2, 3, "tpu-ubuntu2204-base"),
    "v5e": Tpu("tpu-v5-lite-podslice", "v5litepod", 1, 2, "v2-alpha-tpuv5-lite"),
    "v5p": Tpu("tpu-v5p-slice", "v5p", 2, 3, "v2-alpha-tpuv5"),
    "v6e": Tpu("tpu-v6e-slice", "v6e", 1, 2, "v2-alpha-tpuv6e"),
    "tpu7x": Tpu("tpu7x", "tpu7x", 2, 3, ""),
}
GPUS = {  # -> GKE's node label, xpk's device type before the number, SkyPilot's name
    "l4": ("nvidia-l4", "l4", "L4"),
    "a100": ("nvidia-a100-80gb", "a100-80gb", "A100-80GB"),
    "h100": ("nvidia-h100-80gb", "h100-80gb", "H100"),
    "h200": ("nvidia-h200-141gb", "h200-141gb", "H200"),
    "b200": ("nvidia-b200", "b200", "B200"),
}


def hardware_of(settings: dict[str, Any]) -> dict[str, Any]:
    """What `hardware`, `nodes` and `slices` mean: kind, chips of a host, hosts of a slice, names by provider.
    InputError for hardware that is not known."""
    chip, _, shape = settings["hardware"].partition(":")
    if chip in TPUS and re.fullmatch(r"\d+(x\d+)*", shape):
        return tpu_slice(chip, TPUS[chip], shape)
    known = (*GPUS, "cpu")
    if chip not in known or not shape.isdigit() or not int(shape):
        raise InputError(
            f"hardware {settings['hardware']!r}: wanted <gpu>:<GPUs of a node>, <tpu>:<topology of a slice> "
            f"or cpu:<cores of a node>, such as h100:8 or v5p:2x2x4, of {', '.join((*known, *TPUS))}"
        )
    if settings["slices"] != 1:
        raise InputError(f"slices {settings['slices']}: {chip} machines have none; set nodes")
    found = {
        "chips": int(shape),
        "hosts": settings["nodes"],
        "topology": "",
        "runtime": "",
        "gcloud_type": "",
    }
    if chip == "cpu":
        names = {"gke": "", "resource": "cpu", "sky": "", "xpk_type": "", "ray": {"CPU": int(shape)}}
        return found | names | {"kind": "cpu", "lock": "cpu", "devices": 1}
    gke, xpk, sky = GPUS[chip]
    names = {"gke": gke, "resource": "nvidia.com/gpu", "sky": f"{sky}:{shape}", "ray": {"GPU": int(shape)}}
    xpk_type = f"--device-type={xpk}-{shape}"
    return found | names | {"kind": "gpu", "lock": "gpu-cuda12", "devices": int(shape), "xpk_type": xpk_type}


def tpu_slice(chip: str, tpu: Tpu, topology: str) -> dict[str, Any]:
    """The same of a slice. A host has 4 chips; of flat topologies up to 2x4 one host has all of them."""
    sizes = [int(size) for size in topology.split("x")]
    chips = math.prod(sizes)
    alone = chips <= (8 if tpu.dimensions == 2 else 4)
    if len(sizes) != tpu.dimensions or not chips or (not alone and chips % 4):
        example = "2x2x2" if tpu.dimensions == 3 else "4x4"
        raise InputError(f"hardware {chip}:{topology}: wanted a topology such as {chip}:{example}")
    a_host = chips if alone else 4
    accelerator = f"{tpu.type}-{chips * tpu.per_chip}"
    return {
        "kind": "tpu",
        "chips": a_host,
        "devices": a_host * (2 if chip == "tpu7x" else 1),  # JAX's: v4 and v5p show a chip's two cores as one
        "hosts": chips // a_host,
        "topology": topology,
        "gke": tpu.gke,
        "resource": "google.com/tpu",
        "gcloud_type": accelerator,
        "xpk_type": f"--tpu-type={accelerator}",
        "sky": f"tpu-{accelerator}:1",
        "ray": {"TPU": a_host},
        "runtime": tpu.runtime,
        "lock": "tpu",
    }


def check(target: str, settings: dict[str, Any], hardware: dict[str, Any]) -> None:
    """InputError where settings are malformed, or do not go together with the target."""
    for name in ("nodes", "slices", "restarts", "grace_s", "port"):
        if settings[name] < (0 if name == "restarts" else 1):
            raise InputError(f"{name}: saw {settings[name]}, wanted {0 if name == 'restarts' else 1} or more")
    # A pod is called <name>-workers-<slice>-<host>, which the network allows 63 letters.
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", settings["name"]):
        raise InputError(f"name {settings['name']!r}: wanted at most 40 small letters, digits and hyphens")
    if settings["queue"] and not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", settings["queue"]):
        raise InputError(f"queue {settings['queue']!r}: wanted small letters, digits and hyphens")
    try:
        words = shlex.split(settings["command"])
    except ValueError as error:  # a quote that is not closed
        raise InputError(f"command {settings['command']!r}: {error}") from error
    if not words or not words[0].endswith(".py"):
        raise InputError(
            f"command {settings['command']!r}: wanted a script and its flags, as launch/search.py ..."
        )
    own = ("--workdir", "--coordinator", "--processes", "--process_index")
    if given := [word for word in words if word.split("=")[0] in own]:
        raise InputError(
            f"command: saw {given[0]}, which is set here: the page has workdir, and the processes"
        )
    if not re.match(r"/|\w+://", settings["workdir"]):
        raise InputError(f"workdir {settings['workdir']!r}: wanted a path from / on, that all machines see")
    for variable in settings["env"]:
        if not re.match(r"[A-Za-z_]\w*=", variable):
            raise InputError(f"env: saw {variable!r}, wanted NAME=value")
    if settings["mesh"]:
        check_mesh(settings, hardware)
    check_target(target, settings, hardware)


def check_mesh(settings: dict[str, Any], hardware: dict[str, Any]) -> None:
    """InputError where training would refuse the mesh, after the machines have come."""
    devices = hardware["hosts"] * settings["slices"] * hardware["devices"]
    sizes = sizes_of(settings["mesh"].split(","), devices)
    if math.prod(sizes.values()) != devices:
        raise InputError(
            f"mesh {settings['mesh']!r} has {math.prod(sizes.values())} devices, there are {devices}"
        )
    if sizes.get("data", 1) % settings["slices"]:
        slices = settings["slices"]
        raise InputError(f"mesh {settings['mesh']!r} on {slices} slices: make data a multiple of {slices}")


def check_target(target: str, settings: dict[str, Any], hardware: dict[str, Any]) -> None:
    """InputError where the target cannot be had with these settings."""
    kind, volume = hardware["kind"], settings["volume"].partition(":")[0]
    if not re.fullmatch(r"(nfs:[^:/]+:/.*|gs://[^/]+|pvc:[a-z0-9.-]+)?", settings["volume"]):
        raise InputError(
            f"volume {settings['volume']!r}: wanted nfs:<server>:<path>, gs://<bucket> or pvc:<claim>"
        )
    wrong = {
        "slurm": kind == "tpu" and "Slurm has nodes of GPUs or CPUs: hardware=h100:8",
        "search": hardware["hosts"] > 1
        and kind == "tpu"
        and "a pod is a process on a slice of its own: a slice "
        "of one host (v5e:2x4, v6e:2x4, v5p:2x2x1) and nodes; or target jobset, whose hosts share a slice",
        "tpu_vm": (not hardware["runtime"] and f"no TPU VM has {settings['hardware']}")
        or (volume == "pvc" and "claims are Kubernetes's: volume=nfs:<server>:<path> or gs://<bucket>"),
        "ray": kind == "tpu"
        and "Ray would number a slice's hosts in another order than JAX: hardware=h100:8",
        "xpk": kind == "cpu" and "xpk has TPUs and GPUs here",
        "skypilot": (volume != "gs" and "SkyPilot mounts buckets: volume=gs://<bucket>")
        or (settings["slices"] > 1 and "SkyPilot has one slice"),
    }
    if said := wrong.get(target):
        raise InputError(f"{target}: {said}")


def values_of(target: str, settings: dict[str, Any]) -> dict[str, Any]:
    """All that the templates name. InputError as `check`."""
    hardware = hardware_of(settings)
    check(target, settings, hardware)
    hosts, slices = hardware["hosts"], settings["slices"]
    if target == "search":  # its processes are pods, each on a slice of its own
        hosts, slices = settings["nodes"], 1
    env = [*settings["env"]]
    if settings["mesh"] or slices > 1:  # across slices goes the data axis alone
        env += [f"O1JAX_MESH={settings['mesh'] or 'data=*'}", f"O1JAX_SLICES={slices}"]
    words = [*shlex.split(settings["command"]), f"--workdir={settings['workdir']}"]
    volume, _, path = settings["volume"].partition(":")
    server, _, path = path.partition(":") if volume == "nfs" else ("", "", path.removeprefix("//"))
    count = f"--num-slices={slices}" if hardware["kind"] == "tpu" else f"--num-nodes={hosts}"
    ranks = "--coordinator=auto" if hardware["kind"] == "tpu" else xpk_ranks(settings, hosts)
    derived = {
        "env": env,
        "hosts": hosts,
        "slices": slices,
        "words": words,
        "command_shell": shlex.join(words),
        "pyxis_image": re.sub(r"^([^/]+\.[^/]+)/", r"\1#", settings["image"]),  # it wants registry#image
        "docker_env": shlex.join(f"--env={variable}" for variable in env),
        "xpk_count": count,
        "xpk_command": f"python {shlex.join(words)} {ranks}",
        "volume_kind": volume,
        "volume_server": server,
        "volume_path": path,
        "logs": f"{settings['mount']}/logs",
        "flavor": settings["hardware"].replace(":", "-") + ("-spot" if settings["spot"] else ""),
        "runtime_env": json.dumps({"env_vars": dict(variable.split("=", 1) for variable in env)}),
        "ray_resources": json.dumps(hardware["ray"]),
    }
    return settings | hardware | derived


def xpk_ranks(settings: dict[str, Any], hosts: int) -> str:
    """The flags of a process of an xpk workload on GPUs, whose job is <workload>-slice-job-0."""
    head = f"{settings['name']}-slice-job-0-0.{settings['name']}:{settings['port']}"
    return f"--coordinator={head} --processes={hosts} --process_index=$JOB_COMPLETION_INDEX"


def kubernetes(value: str | list[str]) -> str:
    """As YAML; Kubernetes would put variables in the place of $(NAME), so that is written $$(NAME)."""
    return json.dumps(value).replace("$(", "$$(")


def rendered(target: str, settings: dict[str, Any]) -> tuple[str, str, str]:
    """(the file's name, its text, the command that submits it). InputError as `check`."""
    template, name, command = TARGETS[target]
    values = values_of(target, settings)
    file = name.format(**values)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"shell": shlex.quote, "yaml": json.dumps, "kubernetes": kubernetes}
    text = environment.get_template(template).render(values | {"file": file, "page": values})
    quoted = {key: shlex.quote(str(value)) for key, value in values.items()}
    return file, text, command.format(**quoted | {"file": "{file}"})


def main(target: str, workdir: epath.Path, settings: dict[str, Any]) -> None:
    file, text, command = rendered(target, settings)
    path = workdir / file
    workdir.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(text)
    command = command.replace("{file}", shlex.quote(str(path)))
    print(f"# written: {path}\n# submit: {command}", file=sys.stderr)
    if SUBMIT.value:
        sys.exit(subprocess.run(command, shell=True, check=False).returncode)


def start() -> None:
    with entry.one_line_errors():
        page = pages.Page(HERE / "settings.py", sys.argv[1:])
    sys.argv[1:] = page.others

    def run(argv: list[str]) -> None:
        if len(argv) != 2 or argv[1] not in TARGETS:
            entry.fail(f"saw {argv[1:]}, wanted one of {', '.join(TARGETS)}")
        main(argv[1], epath.Path(entry.WORKDIR.value or "runs/pods"), page.settings())

    entry.run(run, "config", "submit")


if __name__ == "__main__":
    start()
