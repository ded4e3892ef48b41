"""`python sharing.py OUT PROBLEMS SECONDS SLOW_S`: a process that does its part of made-up problems, each of
which takes so long, and prints how many it did and what all have made. What another process holds for longer
than SLOW_S is taken over. And `start`, which starts one of several."""

import asyncio
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

from etils import epath

from o1jax.records import Rollout
from o1jax.stages import leases
from o1jax.stages.together import reporting_failure, shared

ROOT = pathlib.Path(__file__).parents[2]
LOST_S = 3.0


def start(index, count, *command, **more):
    """Process `index` of `count`; what is lost is noticed after LOST_S."""
    place = {
        "O1JAX_COORDINATOR": "localhost:1",
        "O1JAX_PROCESSES": str(count),
        "O1JAX_PROCESS_INDEX": str(index),
    }
    env = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "O1JAX_LOST_S": str(LOST_S)} | more
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, *map(str, command)], env=os.environ | place | env, **pipes)


def rollout(problem, version):
    return Rollout(
        id=f"{problem.id}#0",
        group_id=problem.id,
        problem_id=problem.id,
        prompt_ids=(1,),
        token_ids=(2,),
        log_probs=(-0.5,),
        is_policy_token=(True,),
        finish_reason="eos",
        temperature=1.0,
        policy_version=version,
        prompt="direct",
        program="",
        verdict=None,
        reward=0.0,
    )


def main(out, count, seconds, slow_s):
    out, did = epath.Path(out), []

    async def work(problem):
        await asyncio.sleep(seconds)
        did.append(problem.id)
        return [rollout(problem, 0)]

    leases.SLOW_S = slow_s
    problems = [SimpleNamespace(id=f"p{number}") for number in range(count)]
    with reporting_failure(out):
        (out / f"ready.{os.environ['O1JAX_PROCESS_INDEX']}").touch()
        made = asyncio.run(shared(out, "answers", Rollout, problems, work, 2))
    print(len(did), *(record.problem_id for record in made))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *map(float, sys.argv[3:]))
