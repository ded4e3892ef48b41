"""The driver that `ray job submit` runs: one o1jax process a node, as any other scheduler would start them.

    python launch/pods/ray_job.py --nodes=2 --resources='{"GPU": 8}' -- launch/policy_sft.py --workdir=...

Ray places the processes, one on each node with these resources, and starts them; no weights, samples or
figures go through it. When one ends in an error or its node is lost, the others are ended with SIGTERM and
all begin anew; the exit code is that of the last try. Wants `ray` in the environment, which o1jax does not.
"""

import argparse
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

REPOSITORY = pathlib.Path(__file__).parents[2]


@ray.remote(max_restarts=0, max_concurrency=2)
class Host:
    """One node's process; `stop` is answered while `run` waits."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._stopped = False

    def address(self) -> str:
        return ray.util.get_node_ip_address()

    def run(self, command: list[str], variables: dict[str, str]) -> int:
        """Starts the process and waits; its exit code, as a shell counts it."""
        # The actor's own environment has what Ray decided: which accelerators are this process's.
        env = os.environ | variables
        self._process = subprocess.Popen([sys.executable, *command], cwd=REPOSITORY, env=env)
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    def stop(self, grace_s: float) -> None:
        """SIGTERM, upon which training saves, and SIGKILL after `grace_s` seconds."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()


def try_once(group: PlacementGroup, options: argparse.Namespace) -> int:
    """Runs all processes once; 0, or the exit code of the first that failed (1 for a lost node)."""
    hosts = [
        Host.options(
            num_cpus=0,
            num_gpus=options.resources.get("GPU", 0),
            resources={name: n for name, n in options.resources.items() if name not in ("CPU", "GPU")},
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, index),
        ).remote()
        for index in range(options.nodes)
    ]
    try:
        variables = {
            "O1JAX_COORDINATOR": f"{ray.get(hosts[0].address.remote())}:{options.port}",
            "O1JAX_PROCESSES": str(options.nodes),
        }
        running = [
            host.run.remote(options.command, variables | {"O1JAX_PROCESS_INDEX": str(index)})
            for index, host in enumerate(hosts)
        ]
        code = first_error(running)
        if code:  # those that live wait for the one that ended
            ray.wait([host.stop.remote(options.grace_s) for host in hosts], num_returns=len(hosts))
        return code
    finally:
        for host in hosts:
            ray.kill(host)


def first_error(running: list[ray.ObjectRef]) -> int:
    """Waits for the processes; the exit code of the first that is not 0, else 0."""
    while running:
        done, running = ray.wait(running)
        try:
            if code := ray.get(done[0]):
                return code
        except ray.exceptions.RayActorError as error:
            print(f"a node is lost: {error}", file=sys.stderr)
            return 1
    return 0


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, required=True, help="how many processes, each on its own node")
    parser.add_argument(
        "--resources", type=json.loads, default={"CPU": 1}, help="a node's, as Ray names them"
    )
    parser.add_argument("--port", type=int, default=8476, help="where process 0 listens")
    parser.add_argument("--restarts", type=int, default=0, help="tries after the first")
    parser.add_argument("--grace_s", type=float, default=300, help="seconds from SIGTERM to SIGKILL")
    parser.add_argument("command", nargs="+", help="after --: a script and its flags")
    return parser.parse_args()


def main() -> int:
    options = parsed()
    ray.init(address="auto", log_to_driver=True)
    for left in range(options.restarts, -1, -1):
        # A group of its own for each try: after a lost node, Ray looks for another.
        group = placement_group([{"CPU": 1} | options.resources] * options.nodes, strategy="STRICT_SPREAD")
        ray.get(group.ready())
        code = try_once(group, options)
        remove_placement_group(group)
        if not code:
            return 0
        print(
            f"ended with exit code {code} on {socket.gethostname()}; {left} tries are left", file=sys.stderr
        )
        time.sleep(5)
    return code


if __name__ == "__main__":
    sys.exit(main())
