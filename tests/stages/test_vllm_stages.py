"""Stages with the real vLLM: search on servers that are killed, hang, or all die; RL with vLLM in process."""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
import scripted
import served
import tiny_rl
from etils import epath

from o1jax.engine.vllm_engine.fleet import ServersDown
from o1jax.engine.vllm_engine.servers import PUSHED, VllmServers
from o1jax.problems.ladder import problems as ladder
from o1jax.records import Tree
from o1jax.sandbox.fork_judge import ForkJudge
from o1jax.search.growth import Searcher, SearchSettings
from o1jax.stages.problems import read_problems, write_problems
from o1jax.stages.training import open_policy
from o1jax.store import ShardWriter, read_trees

pytestmark = pytest.mark.vllm
SEARCH = {
    "rollouts": 4,
    "samples": 2,
    "max_depth": 3,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "max_step_tokens": 40,
    "max_path_tokens": 60,
    "style": "nano",
}
QUICK = {"slots": 8, "context": tiny_rl.CONTEXT, "answer_s": 5.0, "watch_s": 0.2}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny policy, and 16 problems to search."""
    root = tmp_path_factory.mktemp("vllm_stages")
    tiny_rl.make(root)
    problems = ladder.make_problems("pool", {1: 16}, seed=1)
    write_problems(epath.Path(root) / "sixteen", problems)
    return root


@pytest.fixture(scope="module")
def two(home):
    policy = open_policy(epath.Path(home) / "policy")
    shape = {"slots": 8, "context": tiny_rl.CONTEXT}
    with served.servers(home, 2, policy.config, policy.params, policy.tokenizer, **shape) as started:
        yield started


@pytest.fixture
def both(two):
    """Both servers, which answer."""
    for server in two:
        server.restart_if_ended()
        served.answers(server.url)
    return two


def search(home, servers, store, on_tree=lambda tree: None, patience_s=200.0):
    """The trees of the sixteen problems, by way of `store`, and the engine's counters."""
    policy = open_policy(epath.Path(home) / "policy")
    problems = read_problems(epath.Path(home) / "sixteen")

    async def whole():
        urls = [server.url for server in servers]
        engine = VllmServers(policy.config, policy.tokenizer, urls, patience_s=patience_s, **QUICK)
        try:
            await engine.open()
            await engine.load_params(policy.params, 0)
            async with ForkJudge(slots=1) as judge:
                searcher = Searcher(engine, judge, policy.tokenizer, SearchSettings(**SEARCH))
                trees = await scripted.search_and_keep(searcher, problems, store, 6, on_tree)
                return trees, engine.stats()
        finally:
            await engine.close()

    return asyncio.run(whole())


def tokens(trees):
    """What of the trees does not depend on log-probs' last bits."""
    return [
        (tree.problem_id, [(node.parent, node.token_ids, node.visits, node.value) for node in tree.nodes])
        for tree in trees
    ]


@pytest.fixture(scope="module")
def undisturbed(home, two, tmp_path_factory):
    return tokens(search(home, two, ShardWriter(tmp_path_factory.mktemp("undisturbed"), Tree))[0])


def at_first_tree(do):
    """An on_tree that does it once."""
    seen = []

    def on_tree(tree):
        if not seen:
            do()
        seen.append(tree)

    return on_tree


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_search_outlives_a_server_that_is_killed_or_hangs(home, both, undisturbed, how, tmp_path):
    store = ShardWriter(tmp_path, Tree)
    trees, stats = search(home, both, store, at_first_tree(lambda: os.killpg(both[0].pid, how)))
    assert tokens(trees) == undisturbed
    assert stats["retries"] > 0
    if how == signal.SIGSTOP:
        os.killpg(both[0].pid, signal.SIGCONT)


def test_all_dead_says_so_and_the_trees_that_were_done_are_kept(home, both, undisturbed, tmp_path):
    done = []

    def kill_all(tree):
        done.append(tree.problem_id)
        if len(done) == 3:
            for server in both:
                os.killpg(server.pid, signal.SIGKILL)

    with pytest.raises(ServersDown, match="what was finished"):
        search(home, both, ShardWriter(tmp_path / "trees", Tree), kill_all, patience_s=3.0)
    kept = read_trees(tmp_path / "trees")
    assert {tree.problem_id for tree in kept} == set(done)
    for server in both:
        server.restart_if_ended()
        served.answers(server.url)
    again = []
    trees, _ = search(home, both, ShardWriter(tmp_path / "trees", Tree), again.append)
    assert tokens(trees) == undisturbed
    assert {tree.problem_id for tree in again}.isdisjoint(done)


def test_a_client_that_is_killed_goes_on_to_the_same_trees(home, both, undisturbed, tmp_path):
    engine = {"name": "vllm_server", "slots": 8, "context": tiny_rl.CONTEXT}
    engine["endpoints"] = [server.url for server in both]
    request = {
        "stage": "search",
        "seed": 0,
        "config": {"search": SEARCH, "engine": engine, "concurrency": 2},
        "inputs": {"policy": str(home / "policy"), "problems": str(home / "sixteen")},
    }
    command = [sys.executable, "-c", RUN_STAGE, str(tmp_path / "search"), json.dumps(request)]
    first = subprocess.Popen(command)
    while not list(pathlib.Path(home, "model").glob(f"{PUSHED}*/config.json")):
        assert first.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    first.kill()
    first.wait()
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    timings = json.loads(said.splitlines()[-1])
    problems = [problem.id for problem in read_problems(epath.Path(home) / "sixteen")]
    assert tokens(read_trees(tmp_path / "search" / "trees", problems)) == undisturbed
    assert timings["push_difference"] < 1e-4


# The stage without its manifest protocol, which asks inputs for theirs.
RUN_STAGE = """
import json, sys
from etils import epath
from o1jax.search import search_stage as search
from o1jax.stages import settings
out, request = epath.Path(sys.argv[1]), json.loads(sys.argv[2])
inputs = {name: epath.Path(place) for name, place in request["inputs"].items()}
parsed = settings.parse(search.Settings, request["config"], "search")
print(json.dumps(dict(search.run(out, parsed, inputs, request["seed"]).timings)))
"""


@pytest.mark.parametrize("dtype, most", [("float32", 1e-4), ("bfloat16", 0.5)])
def test_rl_with_vllm_in_process_logs_the_difference_at_every_push(home, tmp_path, dtype, most):
    engine = {"name": "vllm", "slots": 12, "context": tiny_rl.CONTEXT, "dtype": dtype}
    script = pathlib.Path(tiny_rl.__file__)
    settings = json.dumps({"engine": engine, "updates": 3})
    subprocess.run([sys.executable, script, str(home), str(tmp_path / "rl"), settings], check=True)
    rows = tiny_rl.rows(tmp_path / "rl")
    assert len(rows) == 3
    assert all(0 <= row["push_difference"] < most for row in rows)
    learned = [row["sampler_difference"] for row in rows if "sampler_difference" in row]
    assert learned and max(learned) < most
    if dtype == "bfloat16":
        assert max(row["push_difference"] for row in rows) > 1e-4


def test_rl_on_servers_samples_each_update_with_the_weights_of_the_last(home, both, tmp_path):
    engine = {"name": "vllm_server", "slots": 8, "context": tiny_rl.CONTEXT}
    engine["endpoints"] = [server.url for server in both]
    result = tiny_rl.run(home, tmp_path / "rl", engine=engine, updates=3)
    rows = tiny_rl.rows(tmp_path / "rl")
    assert [row["staleness"] for row in rows] == [0, 0, 0]
    assert all(row["push_difference"] < 1e-4 for row in rows)
    assert result.timings["pushes"] >= 4 and result.timings["stale_completions"] == 0
