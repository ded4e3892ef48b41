"""Every stage that several processes share or train in, by two and four real ones, against one process."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import several_stages
import tiny_rl
from etils import epath

from o1jax.records import Rollout, Tree
from o1jax.rl.rollouts import rollouts_path
from o1jax.search.posterior import FILE, Belief
from o1jax.stages.manifest import read_manifest
from o1jax.stages.training import open_policy
from o1jax.store import read_records, read_shards, read_trees, shard_paths

pytestmark = pytest.mark.hostile
HERE = pathlib.Path(__file__).parent
PLAYED = ("problems", "search", "sample", "drawn", "evaluate", "tcg_problems")
TRAINED = ("sft", "dpo", "prm", "tcg", "tcg_dpo")


def run(count: int, *command: str, devices: int = 2) -> None:
    """The command in `count` processes of so many devices each, which all end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join(map(str, (HERE.parents[1], HERE.parent / "lineage")))  # of o1jax, of lineage_run
    env = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": path}
    env |= {"O1JAX_COORDINATOR": f"localhost:{port}", "O1JAX_PROCESSES": str(count)}
    running = [
        subprocess.Popen(
            [sys.executable, *command],
            env=os.environ | env | {"O1JAX_PROCESS_INDEX": str(index)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for index in range(count)
    ]
    try:
        errors = [process.communicate(timeout=2400)[1] for process in running]
    except subprocess.TimeoutExpired:
        for process in running:
            if process.poll() is None:  # or it works on beside all tests after this one
                os.killpg(process.pid, signal.SIGKILL)
        raise
    for process, error in zip(running, errors, strict=True):
        assert process.returncode == 0, error[-3000:]


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[int, epath.Path]:
    """The number of processes -> where they ran."""
    made = {count: epath.Path(tmp_path_factory.mktemp(f"by_{count}")) for count in (1, 2, 4)}
    for count, root in made.items():
        several_stages.build(root)
        run(count, str(HERE / "several_stages.py"), str(root), devices=min(2, 4 // count))  # rows: 4 a batch
    return made


@pytest.mark.parametrize("several", [2, 4])
def test_several_processes_play_and_train_as_one(roots, several):
    """The same trees, samples and figures; of trained models the same counts, and scores that are close."""
    one, two = (
        {place: read_manifest(roots[count] / place)["figures"] for place in (*PLAYED, *TRAINED)}
        for count in (1, several)
    )
    held_out = [figures["prm"].pop("held_out")["prm"]["log_loss"] for figures in (one, two)]
    assert two == one
    assert held_out[1] == pytest.approx(held_out[0], rel=1e-3)
    for place in ("search", "drawn"):
        assert read_trees(roots[several] / place / "trees") == read_trees(roots[1] / place / "trees")
    assert one["drawn"]["problems"] == 4
    kept = [read_records(roots[count] / "drawn" / FILE, Belief) for count in (1, several)]
    assert kept[0] == kept[1] and sum(belief.drawn for belief in kept[0]) == 4
    for place in ("sample/rollouts", "evaluate/rollouts", "evaluate/best_of_n"):
        assert read_shards(roots[several] / place, Rollout) == read_shards(roots[1] / place, Rollout)
    for place in TRAINED:
        close(roots[1] / place, roots[several] / place)


def test_each_process_plays_a_part_and_no_problem_is_played_twice(roots):
    shards = [read_records(path, Tree) for path in shard_paths(roots[2] / "search/trees")]
    played = [tree.problem_id for trees in shards for tree in trees]
    assert len(shards) > 1 and len(played) == len(set(played)) == 9
    assert not (roots[2] / "search/leases").exists()


def test_policy_gradient_in_several_processes_is_that_of_one(tmp_path):
    """Each samples an equal share of an update's answers with engines of its own, of four processes half of
    a problem's, and all train one policy."""
    tiny_rl.make(tmp_path)
    more = {"updates": 3, "problems_per_update": 2, "max_samples": 12, "cut_after": 4, "checkpoint_every": 1}
    for count, devices in ((1, 2), (2, 2), (4, 1)):
        out = str(tmp_path / f"by_{count}")
        run(count, tiny_rl.__file__, str(tmp_path), out, json.dumps(more), devices=devices)
    one, *others = (tiny_rl.rows(tmp_path / f"by_{count}") for count in (1, 2, 4))
    learned = [row for row in one if "loss" in row]
    assert len(one) == 3 and learned
    for rows in others:
        for name in ("outcome", "generated_tokens", "groups_kept", "trained_tokens", "longest_answer"):
            assert [row[name] for row in rows] == [row[name] for row in one]
        losses = [row["loss"] for row in rows if "loss" in row]
        np.testing.assert_allclose(losses, [row["loss"] for row in learned], atol=2e-6)
        assert all(row["push_difference"] < 1e-4 for row in rows)
    assert rollouts(tmp_path / "by_2", 0) == rollouts(tmp_path / "by_4", 0) == rollouts(tmp_path / "by_1", 0)
    for count in (2, 4):
        close(tmp_path / "by_1", tmp_path / f"by_{count}")


def rollouts(out: pathlib.Path, t: int) -> list[Rollout]:
    return read_records(rollouts_path(epath.Path(out) / "rollouts", t), Rollout)


def close(one: pathlib.Path, two: pathlib.Path) -> None:
    """Asserts that two trained policies are the same but for rounding."""
    policies = [open_policy(epath.Path(place)).params for place in (one, two)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), *policies)
