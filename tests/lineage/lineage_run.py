"""A run whose lineage is traced: small finished stages, and stages that note what they would train on."""

import dataclasses
import functools
from types import SimpleNamespace

import pytest
from etils import epath

from o1jax.model.init import init_params
from o1jax.model.presets import preset
from o1jax.parallel.mesh import make_mesh
from o1jax.policy.found import reference_provenance, reference_samples
from o1jax.prompts import nano_tokenizer, pseudocode
from o1jax.prompts.chat import save_tokenizer
from o1jax.records import (
    CaseResult,
    Node,
    Problem,
    Rollout,
    Status,
    Step,
    TestCase,
    Tree,
    Verdict,
)
from o1jax.stages import manifest, provenance, run, training
from o1jax.stages.manifest import StageResult, StageSpec
from o1jax.stages.problems import write_problems
from o1jax.store import write_records
from o1jax.tcg.adversarial import JudgedAnswer
from o1jax.train.checkpoint import save_policy
from o1jax.train.loop import Progress

IDS = ("a", "a#1", "b/2>1")  # an id may hold what separates the parts of a sample's
OWN, WRITTEN = TestCase("1 2\n", "3\n"), TestCase("4 4\n", "8\n")
AC, WA = CaseResult(Status.AC), CaseResult(Status.WA)
PASS, HALF, FAIL = Verdict(True, (AC, AC)), Verdict(True, (AC, WA)), Verdict(True, (WA, WA))
PROGRAM = "a, b = map(int, input().split())\nc = a + b\nprint(c)"
TOKENIZER = nano_tokenizer.train([PROGRAM, "plan"], 400)
EOS = TOKENIZER.eos_token_id
CHAIN = (Step(1, "plan"), Step(2, "plan b"), Step(3, PROGRAM))


def problem_of(id, tests):
    return Problem(id, "Add.", "stdin", tests, solutions=(PROGRAM,), reasoning=(CHAIN,))


def tree_of(problem_id, number):
    """1 plan: 2 passes, 3 passes half; 4 plan: 5 fails. Texts differ by the number of the search."""
    nodes = [Node(index=0, parent=-1, depth=0, action=0, visits=3, value_sum=1.5)]
    for parent, depth, verdict in ((0, 1, None), (1, 2, PASS), (1, 2, HALF), (0, 1, None), (4, 2, FAIL)):
        index, value = len(nodes), verdict.pass_rate if verdict else None
        body = f"{PROGRAM}  # {number}.{index}" if verdict else f"plan {number}.{index}"
        words = pseudocode.render_step(Step(3 if verdict else 1, body), depth)
        ids = tuple(TOKENIZER.encode(words, add_special_tokens=False))
        nodes.append(
            Node(
                index,
                parent,
                depth,
                action=3 if verdict else 1,
                token_ids=ids,
                log_probs=(-0.5,) * len(ids),
                is_policy_token=(True,) * len(ids),
                text=words,
                visits=1,
                value_sum=value or 0.0,
                value=value,
                verdict=verdict,
            )
        )
    return Tree(problem_id, (3, 7), tuple(nodes), 100 + number, 0.8, 3, 60, 3)


def stage(root, place, name, data=None, config=None, **inputs):
    """A finished stage: its data, written by `data(place)`, and its manifest."""
    places = {key: str(root / at) for key, at in inputs.items()}
    spec = StageSpec(name, config or {}, len(place), places)
    manifest.begin(root / place, spec)
    if data:
        data(root / place)
    manifest.finish(root / place, spec, StageResult({"place": place, "n": 1}, {"seconds": 1.0}))


def problems(*tests, ids=IDS):
    return lambda place: write_problems(place, [problem_of(id, tests) for id in ids])


def trees(number, ids=IDS):
    found = [tree_of(id, number) for id in ids]
    return lambda place: write_records(place / "trees" / "trees.parquet", Tree, found)


def rollout(problem_id, id, verdict, version=0):
    ids = (*TOKENIZER.encode(pseudocode.render_path(CHAIN), add_special_tokens=False), EOS)
    return Rollout(
        id=id,
        group_id=problem_id,
        problem_id=problem_id,
        prompt_ids=(3, 7),
        token_ids=ids,
        log_probs=(-0.5,) * len(ids),
        is_policy_token=(True,) * len(ids),
        finish_reason="eos",
        temperature=1.0,
        policy_version=version,
        prompt="pseudocode",
        program=CHAIN[-1].text,
        verdict=verdict,
        reward=float(verdict is PASS),
    )


def samples(ids=IDS):
    found = [rollout(id, f"{id}#{i}", verdict) for id in ids for i, verdict in enumerate((FAIL, PASS))]
    return lambda place: write_records(place / "rollouts" / "rollouts.parquet", Rollout, found)


def answers():
    """Two a problem, of which the second kills one of its two wrong programs."""
    ids = (*TOKENIZER.encode("plan", add_special_tokens=False), EOS)
    return [
        JudgedAnswer(id, number, (3, 7), (*ids[:number], *ids), "eos", "", 1, (1,) * number, 2, number / 2)
        for id in ("a", "a#1")
        for number in (0, 1)
    ]


def policy(place):
    config = dataclasses.replace(preset("nano"), vocab_size=400, d_model=64, n_layers=1, n_heads=2, d_ff=128)
    save_policy(place / "policy", config, init_params(config, 0, make_mesh())[1], TOKENIZER)


def warmed_up(place):
    policy(place)
    found = reference_samples([problem_of(id, (OWN,)) for id in IDS], TOKENIZER, 1, "nano")
    provenance.write(place, reference_provenance(found, "references", TOKENIZER, 256))


def build(root):
    """A run up to its second search, tests that a generator wrote among those that judge it."""
    (root / "summary.json").write_text("{}")
    more = tuple(TestCase(f"{a} 2\n", f"{a + 2}\n") for a in range(1, 6))
    stage(root, "problems/references", "check_problems", problems(OWN), {"source": "given.jsonl"})
    stage(root, "problems/pool", "check_problems", problems(OWN))
    stage(root, "problems/tcg", "check_problems", problems(*more, ids=("a", "a#1")))
    stage(root, "warm_up", "warm_up", warmed_up, references="problems/references")
    stage(root, "tcg", "tcg_sft", config={"train_tokens": 9}, problems="problems/tcg")
    written = {"tcg": "tcg", "problems": "problems/pool"}
    stage(root, "tests", "write_tests", problems(OWN, WRITTEN), **written)
    stage(root, "again", "check_problems", problems(OWN, WRITTEN), problems="tests")
    stage(root, "round_00/search", "search", trees(0), policy="warm_up", problems="tests")
    stage(root, "round_01/search", "search", trees(1), policy="warm_up", problems="again")
    stage(root, "samples", "sample", samples(), policy="warm_up", problems="tests")


FOUND = {"found_0": "round_00/search", "found_1": "round_01/search"}
DPO = {"train_tokens": 9, "max_per_parent": 0, "max_per_problem": 3, "train": {"row_length": 256}}
CASES = {"sets": 2, "style": "nano"}
STAGES = {  # place -> (stage, its config, its inputs)
    "sft": (
        "policy_sft",
        {"train_tokens": 9, "style": "nano"},
        {"references": "problems/references"} | FOUND,
    ),
    "sampled": ("policy_sft", {"train_tokens": 9}, {"found_0": "samples"}),
    "dpo": ("policy_dpo", DPO, FOUND),
    "prm": ("prm", {"train_tokens": 9, "trains": "body", "max_paths_per_problem": 4}, FOUND),
    "prm_pair": ("prm", {"train_tokens": 9, "trains": "body", "objective": "pair"}, FOUND),
    "tcg_sft": ("tcg_sft", {"train_tokens": 9, "cases": CASES}, {"problems": "problems/tcg"}),
    "tcg_dpo": (
        "tcg_dpo",
        {"train_tokens": 9, "cases": CASES},
        {"problems": "problems/tcg", "tcg": "warm_up"},
    ),
    "tcg_adversarial": (
        "tcg_adversarial",
        {"train_tokens": 9},
        {"problems": "problems/tcg", "tcg": "warm_up", "found_0": "round_00/search"},
    ),
}


def trainer(house, tmp_path_factory):
    """A place of STAGES -> (the stage, run but for its training, the ids of what it would train on)."""

    @functools.cache
    def train(place, row_length=None, **config):
        noted = []
        if row_length is not None:
            config["train"] = {"row_length": row_length}

        def note(out, title, policy, objective, examples, settings, seed, rotation=None):
            noted.extend(example.id for example in examples)
            save_tokenizer(str(out / "policy" / "tokenizer"), policy.tokenizer)
            return SimpleNamespace(progress=Progress(1, 1), seconds=1.0, params=policy.params)

        name, own, inputs = STAGES[place]
        inputs = inputs if "tcg" in inputs else {"policy": "warm_up", **inputs}
        spec = StageSpec(name, {**own, **config}, 5, {key: str(house / at) for key, at in inputs.items()})
        out = epath.Path(tmp_path_factory.mktemp(place).resolve())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "train_tokens", note)
            patch.setattr(training, "with_reference", lambda examples, *parts, **shape: examples)
            if name == "tcg_adversarial":
                write_records(out / "answers.parquet", JudgedAnswer, answers())
            run.run(out, spec)
        return out, noted

    return train
