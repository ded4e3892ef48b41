"""Every stage that several processes share or train in, by two real ones, against one process."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest
import several_stages
from etils import epath

from o1jax.records import Rollout
from o1jax.search.store import read_shards, read_trees
from o1jax.stages.manifest import read_manifest

PROGRAM = pathlib.Path(several_stages.__file__)
PLAYED = ("problems", "search", "sample", "evaluate", "tcg_problems")


def start(root: pathlib.Path, **env: str) -> subprocess.Popen:
    env = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(PROGRAM.parents[2])} | env
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, str(PROGRAM), str(root)], env=os.environ | env, **output)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[int, epath.Path]:
    """The number of processes -> where they ran."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    made = {}
    for count in (1, 2):
        made[count] = epath.Path(tmp_path_factory.mktemp(f"by_{count}"))
        several_stages.build(made[count])
        together = {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESSES": str(count)}
        together |= {"JAX_NUM_CPU_DEVICES": "2"}
        running = [start(made[count], O1JAX_PROCESS_INDEX=str(i), **together) for i in range(count)]
        outputs = [process.communicate(timeout=900) for process in running]
        for out, error in outputs:
            assert out.count("done") == len(several_stages.specs(made[count])), error[-3000:]
    return made


@pytest.mark.hostile
def test_two_processes_play_and_train_as_one(roots):
    """The same trees, samples and figures; of trained models, the same counts."""
    manifests = {
        count: {place: read_manifest(root / place) for place, *_ in several_stages.specs(root)}
        for count, root in roots.items()
    }
    for place in PLAYED:
        assert manifests[2][place]["figures"] == manifests[1][place]["figures"], place
    for place in ("sft", "dpo", "prm", "tcg", "tcg_dpo"):
        one, two = manifests[1][place]["figures"], manifests[2][place]["figures"]
        assert {k: v for k, v in two.items() if k != "held_out"} == {
            k: v for k, v in one.items() if k != "held_out"
        }
    one, two = (manifests[count]["prm"]["figures"]["held_out"]["prm"]["log_loss"] for count in (1, 2))
    assert two == pytest.approx(one, rel=1e-3)
    assert read_trees(roots[2] / "search/trees") == read_trees(roots[1] / "search/trees")
    for place in ("sample/rollouts", "evaluate/rollouts", "evaluate/best_of_n"):
        assert read_shards(roots[2] / place, Rollout) == read_shards(roots[1] / place, Rollout)


@pytest.mark.hostile
def test_each_of_two_processes_plays_a_part(roots):
    marks = {path.name for path in (roots[2] / "search/processes").iterdir()}
    assert marks == {"trees.0_of_2", "trees.1_of_2"}
    assert len(read_trees(roots[2] / "search/trees")) == 9
    parts = [path for path in (roots[2] / "sample/processes").iterdir() if path.suffix == ".parquet"]
    assert len(parts) == 2
