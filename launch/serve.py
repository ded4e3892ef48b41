"""Starts vLLM servers of a policy, watches them, and starts again what ends. SIGTERM or Ctrl-C ends all.

    .venv-vllm/bin/python launch/serve.py --policy=runs/demo/warm_up --servers=2 --workdir=runs/serve

What trains and searches runs elsewhere, in any environment that sees the same --workdir, with
engine.name = "vllm_server" and engine.endpoints as printed. Words after `--` go to vLLM as they are.
"""

import pathlib
import time

import entry
from absl import flags
from etils import epath

from o1jax.engine.vllm_engine.processes import Server, ServerSettings
from o1jax.engine.vllm_engine.settings import arguments, is_cpu_build, is_here
from o1jax.model.hf.names import untied
from o1jax.records import InputError
from o1jax.stages.training import open_policy
from o1jax.train.checkpoint import export_policy

POLICY = flags.DEFINE_string(
    "policy", None, "A stage that trained one, a policy directory, or published weights.", required=True
)
SERVERS = flags.DEFINE_integer("servers", 1, "How many.", lower_bound=1)
PORT = flags.DEFINE_integer("port", 8000, "Of the first server; the others follow.")
HOST = flags.DEFINE_string("host", "127.0.0.1", "The address that they listen on.")
SLOTS = flags.DEFINE_integer("slots", 64, "Samples at once, each server.", lower_bound=1)
CONTEXT = flags.DEFINE_integer("context", 384, "Tokens of prompt and answer together.", lower_bound=2)
DTYPE = flags.DEFINE_string("dtype", "", "float32 or bfloat16; empty: the policy's compute dtype.")
GPUS = flags.DEFINE_integer("gpus", 0, "GPUs a server, in order; 0: as vLLM chooses.")


def main(argv: list[str]) -> None:
    if not is_here():
        raise InputError(
            "vLLM is not installed here: make install-vllm, then .venv-vllm/bin/python launch/serve.py"
        )
    workdir = pathlib.Path(entry.WORKDIR.value or "runs/serve").resolve()
    settings, model = prepare(workdir, argv[1:])
    servers = []
    try:
        for index in range(SERVERS.value):
            servers.append(Server(str(model), index, settings, workdir / f"server_{index}.log"))
        print(f"starting; logs are {workdir}/server_*.log", flush=True)
        print("endpoints: " + ",".join(server.url for server in servers), flush=True)
        while True:
            time.sleep(1)
            for server in servers:
                if happened := server.restart_if_ended():
                    print(happened, flush=True)
    except KeyboardInterrupt:
        print("ending", flush=True)
    finally:
        for server in servers:
            server.end()


def prepare(workdir: pathlib.Path, more: list[str]) -> tuple[ServerSettings, pathlib.Path]:
    """The servers' settings and the directory of the model that they start with."""
    policy = open_policy(epath.Path(POLICY.value))
    cpu = is_cpu_build()
    chosen = arguments(
        policy.config,
        slots=SLOTS.value,
        context=CONTEXT.value,
        dtype=DTYPE.value or policy.config.compute_dtype,
        cpu=cpu,
    )
    export_policy(workdir / "model", *untied(policy.config, policy.params), policy.tokenizer)
    settings = ServerSettings(chosen, cpu, PORT.value, HOST.value, GPUS.value, more)
    return settings, workdir / "model"


if __name__ == "__main__":
    entry.run(main)
