"""Real stages in two processes, one of which is killed at random moments, under a launcher that starts again:
the finished stage is the undisturbed one, and whoever waits for the dead one ends in time."""

import contextlib
import json
import os
import random
import signal
import socket
import time

import jax
import lineage_run
import numpy as np
import pytest
import several_stages
import sharing
import tiny_rl
from etils import epath

from o1jax.stages import beats
from o1jax.stages.beats import TRY_AGAIN
from o1jax.stages.manifest import StageSpec, read_manifest
from o1jax.stages.problems import write_problems
from o1jax.stages.run import run_in_child
from o1jax.stages.training import open_policy
from o1jax.store import read_trees

pytestmark = pytest.mark.hostile
LOST_S = 8.0
IN_TIME_S = 1.5 * LOST_S + 30  # what the file system's cache would add; here that of two busy cores
STAGE = """
import json, sys
from etils import epath
from o1jax.stages.beats import TRY_AGAIN, PeerLost
from o1jax.stages.run import run_in_child, spec_of
try:
    run_in_child(epath.Path(sys.argv[1]), spec_of(json.loads(sys.argv[2])))
except PeerLost as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(TRY_AGAIN)
"""


def start(out, spec, index, port):
    """Process `index` of two, with its children in a session of its own."""
    more = {
        "O1JAX_COORDINATOR": f"localhost:{port}",
        "O1JAX_LOST_S": str(LOST_S),
        "JAX_NUM_CPU_DEVICES": "1",
    }
    return sharing.start(index, 2, "-c", STAGE, out, json.dumps(spec), **more)


def started(out, spec):
    """Two processes of the stage."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [start(out, spec, index, port) for index in (0, 1)]


def kill(process):
    """As a host that is gone: the process and its children."""
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def undisturbed(out, spec):
    """How long the stage took."""
    began = time.monotonic()
    for process in started(out, spec):
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error[-3000:]
    return time.monotonic() - began


def disturbed(out, spec, moments, *, alone):
    """Runs the stage to its end; at each of the moments, seconds after both processes have seen each other,
    one is killed: the first and the second in turn. `alone`: a new one takes its place while the other works
    on. Else the other has to end by itself, and the job begins anew."""
    both, known = started(out, spec), owners(out)
    for number, moment in enumerate(moments):
        while not all(new and new != old for new, old in zip(owners(out), known, strict=True)):
            if any(process.poll() is not None for process in both):
                break
            time.sleep(0.05)
        end = time.monotonic() + moment
        while time.monotonic() < end and any(process.poll() is None for process in both):
            time.sleep(0.05)
        known = owners(out)
        killed = number % 2
        kill(both[killed])
        if alone:
            both[killed] = start(out, spec, killed, port=1)
            known[1 - killed] = ""
            continue
        since = time.monotonic()
        _, error = both[1 - killed].communicate(timeout=600)
        assert time.monotonic() - since < IN_TIME_S
        # It had ended already, or it says whom it lost.
        assert both[1 - killed].returncode in (0, TRY_AGAIN), error[-3000:]
        assert both[1 - killed].returncode == 0 or "was lost" in error, error[-3000:]
        both = started(out, spec)
    for process in both:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error[-3000:]


def owners(out):
    """Who has given enough signs of life for the other to know that it is of this try."""
    texts = [beats.read(out / "beats" / f"beat.{index}") for index in (0, 1)]
    return [text.split(" ")[0] if text and int(text.split(" ")[1]) > 3 else "" for text in texts]


def moments_of(kind, count, lasted):
    """Within the time that the whole took, so that joining, compiling and the end are met too."""
    chance = random.Random(kind)
    return [chance.uniform(0.0, 1.0) * lasted for _ in range(count)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = epath.Path(tmp_path_factory.mktemp("killed"))
    several_stages.build(root)
    place, stage, settings, _ = several_stages.specs(root)[0]
    run_in_child(root / place, StageSpec(stage, settings, 0, {}))
    tiny_rl.make(root / "rl")
    write = lambda place: write_problems(place, tiny_rl.problems())  # noqa: E731
    lineage_run.stage(root, "rl_problems", "check_problems", write)
    return root


def spec_of(root, stage, settings, inputs):
    return {
        "stage": stage,
        "config": settings,
        "seed": 0,
        "inputs": {name: str(root / at) for name, at in inputs.items()},
    }


def test_a_search_whose_processes_are_killed_and_replaced_finds_the_same_trees(root):
    spec = spec_of(root, *several_stages.specs(root)[1][1:])
    spec["config"] = {**spec["config"], "concurrency": 2}
    lasted = undisturbed(root / "search", spec)
    for part in range(2):  # short runs: a stage would be finished before all of the moments
        out = root / f"search_killed_{part}"
        disturbed(out, spec, moments_of(f"search {part}", 4, lasted), alone=True)
        assert read_trees(out / "trees") == read_trees(root / "search" / "trees")
        assert read_manifest(out)["figures"] == read_manifest(root / "search")["figures"]


def test_policy_gradient_of_which_a_process_is_killed_goes_on_to_the_same_curve(root):
    settings = {**tiny_rl.SETTINGS, "updates": 3, "problems_per_update": 4, "checkpoint_every": 1}
    inputs = {"policy": "rl/policy/policy", "problems": "rl_problems"}
    spec = spec_of(root, "policy_rl", settings, inputs)
    lasted = undisturbed(root / "rl_whole", spec)
    disturbed(root / "rl_killed", spec, moments_of("rl", 6, lasted), alone=False)
    rows, same = tiny_rl.rows(root / "rl_killed"), tiny_rl.rows(root / "rl_whole")
    assert [row["outcome"] for row in rows] == [row["outcome"] for row in same] and len(rows) == 3
    close(root / "rl_killed", root / "rl_whole")


def test_training_of_which_a_process_is_killed_makes_the_same_policy(root):
    place, *spec = several_stages.specs(root)[5]
    assert place == "sft"
    spec = spec_of(root, *spec)
    lasted = undisturbed(root / "sft", spec)
    disturbed(root / "sft_killed", spec, moments_of("sft", 6, lasted), alone=False)
    assert read_manifest(root / "sft_killed")["figures"] == read_manifest(root / "sft")["figures"]
    close(root / "sft_killed", root / "sft")


def close(one, two):
    """Asserts that two trained policies are the same but for rounding."""
    policies = [open_policy(epath.Path(place)).params for place in (one, two)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *policies)
