"""The arms of an evaluation with a reward model or a test generator, on scripted samples and verdicts."""

import asyncio
import dataclasses
import tempfile
import time

import pytest
from etils import epath
from scripted import ScriptedEngine, byte_tokenizer, path, problem, step
from test_prm_search import ScriptedScorer

from o1jax.evaluation.choice import CasesOf, ChoiceArms, last_scores
from o1jax.evaluation.comparison import Comparison
from o1jax.evaluation.sample_store import SampleStore
from o1jax.records import CaseResult, Status, TestCase, Verdict
from o1jax.search.growth import SearchSettings
from o1jax.search.sampling import SampleSettings
from o1jax.stages.workers import Workers

SEARCH = SearchSettings(rollouts=3, samples=2, top_p=1.0, top_k=0, max_path_tokens=600, max_step_tokens=200)
# Programs and what the model draws; "wrong" is the majority, and the scorer likes what is right.
DRAWN = ("wrong 0", "wrong 1", "good 2", "wrong 3", "never closed")
PLAN = step(1, 1, "plan")


class PrintingJudge:
    """A program prints its first word, and passes if that is "good"."""

    isolation = "none"

    async def judge(self, job):
        word = job.source.split()[0]
        status = Status.AC if word == "good" else Status.WA
        return Verdict(True, (CaseResult(status, output=word if job.keep_output else None),) * len(job.tests))


class CountedEngine(ScriptedEngine):
    def stats(self):
        return {}


def script(prefix, seed):
    said = DRAWN[seed % len(DRAWN)]
    if said == "never closed":
        return path(PLAN, said)[len(prefix) :] if not prefix else said
    return ("\n" if prefix else PLAN + "\n") + step(2, 3, said)


def likes(text):
    """The score of a step by the text up to its end."""
    return 0.9 if "good" in text else 0.2 if "wrong" in text else 0.5


class StepwiseScorer(ScriptedScorer):
    """Scores every step of a path."""

    async def score(self, paths):
        self.calls.append(paths)
        return [
            tuple(likes(self.answer(path.token_ids[: end + 1])) for end in path.step_ends) for path in paths
        ]


def comparison(n_problems=6, seed=0):
    tokenizer = byte_tokenizer()
    engine = CountedEngine(tokenizer, script)
    problems = [problem(f"p{i}") for i in range(n_problems)]
    return Comparison(
        workers=Workers(engine, PrintingJudge(), tokenizer, time.monotonic()),
        search=SEARCH,
        sample=SampleSettings(top_p=1.0, top_k=0, max_tokens=600),
        aspr_samples=2,
        problems=problems,
        seed=seed,
        store=SampleStore(epath.Path(tempfile.mkdtemp()), None, concurrency=4),
    ), StepwiseScorer(tokenizer, likes)


async def played_figures(n_problems=6, seed=0):
    plain, scorer = comparison(n_problems, seed)
    played = await plain.generate()
    return played, await plain.figures(played), await ChoiceArms(plain, played, scorer).figures()


def test_every_arm_states_its_pass_rate_and_tokens():
    played, plain, got = asyncio.run(played_figures())
    arms = plain["search"] | got["search"]
    assert set(got["search"]) == {
        "search_prm", "best_of_n_prm", "best_of_n_prm_vote", "best_of_n_prm_tie", "best_of_n_majority_tie",
        "best_of_n_random_tie", "best_of_n_majority", "random",
    }  # fmt: skip
    assert all(set(arm) == {"pass_rate", "generated_tokens"} for arm in arms.values())
    assert arms["best_of_n_prm"]["generated_tokens"] == arms["best_of_n"]["generated_tokens"]
    assert got["generated_tokens"] == arms["search_prm"]["generated_tokens"]
    assert got["generated_tokens"] == pytest.approx(played.budget, rel=0.1)


def test_the_scorer_finds_what_the_majority_and_a_draw_miss():
    played, plain, got = asyncio.run(played_figures(12))
    rates = {name: arm["pass_rate"]["mean"] for name, arm in got["search"].items()}
    has_good = [any(r.reward for r in group) for group in played.pseudocode_P_G]
    well_formed = [[r.reward for r in group if r.verdict] for group in played.pseudocode_P_G]
    assert rates["best_of_n_prm"] == round(sum(has_good) / 12, 4) > rates["best_of_n_majority"]
    assert rates["random"] == round(sum(sum(g) / len(g) if g else 0.0 for g in well_formed) / 12, 4)
    differences = got["search_differences"]
    by_hand = rates["best_of_n_prm"] - rates["random"]
    assert differences["best_of_n_prm - random"]["mean"] == pytest.approx(by_hand, abs=1e-4)
    assert differences["search_prm - search"]["n"] == 12


def written(problems, n_cases, tokens):
    cases = tuple(TestCase(f"{i}\n", "1\n") for i in range(n_cases))
    return {p.id: CasesOf(p.id, cases, tokens) for p in problems}


def test_a_generators_cases_find_what_the_majority_misses_at_no_more_tokens():
    plain, _ = comparison(12)
    played = asyncio.run(plain.generate())
    got = asyncio.run(ChoiceArms(plain, played, cases=written(plain.problems, 6, 40)).figures())
    arms = got["search"]
    assert set(arms) == {"best_of_n_tcg", "best_of_n_majority", "random"}
    assert arms["best_of_n_tcg"]["pass_rate"]["mean"] > arms["best_of_n_majority"]["pass_rate"]["mean"]
    assert arms["best_of_n_tcg"]["generated_tokens"] <= arms["best_of_n_majority"]["generated_tokens"]
    assert got["generated_tokens"] == 12 * 40
    assert set(got["search_differences"]) == {"best_of_n_tcg - best_of_n_majority", "best_of_n_tcg - random"}


def test_cases_that_cost_all_tokens_leave_the_first_sample():
    plain, _ = comparison()
    played = asyncio.run(plain.generate())
    arms = ChoiceArms(plain, played, cases=written(plain.problems, 6, 10**6))
    wrong, good = one_of_each(played)
    for group, rate in (
        ([good, wrong], 1.0),
        ([wrong, good], 0.0),
        ([dataclasses.replace(wrong, verdict=None), good], 0.0),
    ):
        assert asyncio.run(arms._choose(plain.problems[0], group))["best_of_n_tcg"] == rate


def test_without_cases_the_first_well_formed_sample_is_chosen():
    plain, _ = comparison()
    played = asyncio.run(plain.generate())
    arms = ChoiceArms(plain, played, cases=written(plain.problems, 0, 0))
    wrong, good = one_of_each(played)
    assert asyncio.run(arms._choose(plain.problems[0], [wrong, good]))["best_of_n_tcg"] == 0.0


def one_of_each(played):
    group = [r for p in played.pseudocode_P_G for r in p if r.verdict]
    return [next(r for r in group if bool(r.reward) is is_good) for is_good in (False, True)]


class FixedScorer:
    """The scores of the steps of its first path, of its second, ..."""

    def __init__(self, *scores):
        self.scores = scores

    async def score(self, paths):
        return list(self.scores)


def test_the_last_step_chooses_by_itself_and_with_others_in_a_vote():
    plain, _ = comparison()
    wrong, good = one_of_each(asyncio.run(plain.generate()))
    scores = ((0.1, 0.5), (0.1, 0.3), (0.9, 0.4))
    for group, passed in (((good, wrong, wrong), 1.0), ((wrong, good, good), 0.0)):
        chosen = asyncio.run(ChoiceArms(plain, None, FixedScorer(*scores))._choose(plain.problems[0], group))
        assert chosen["best_of_n_prm"] == passed, "the highest last step"
        assert chosen["best_of_n_prm_vote"] == chosen["best_of_n_majority"] == 1 - passed
    trusted = FixedScorer((0.1, 0.8), (0.9, 0.3), (0.9, 0.4))
    chosen = asyncio.run(ChoiceArms(plain, None, trusted)._choose(plain.problems[0], (good, wrong, wrong)))
    assert chosen["best_of_n_prm_vote"] == 1.0 > chosen["best_of_n_majority"]


def test_ties_after_the_visible_tests_are_broken_by_the_programs_scores():
    plain, _ = comparison()
    wrong, good = one_of_each(asyncio.run(plain.generate()))
    # By the visible tests alike, by the hidden ones not.
    lucky, fair = (dataclasses.replace(good, program=p) for p in (wrong.program, good.program))
    group, scorer = (lucky, fair, wrong), FixedScorer((0.3,), (0.4,), (0.9,))
    chosen = asyncio.run(ChoiceArms(plain, None, scorer)._choose(plain.problems[0], group))
    assert (chosen["best_of_n_prm_tie"], chosen["best_of_n_majority_tie"]) == (1.0, 0.0)
    assert chosen["best_of_n_random_tie"] == 0.5 and chosen["best_of_n_prm"] == 0.0
    more = FixedScorer((0.3,), (0.4,), (0.3,))
    chosen = asyncio.run(ChoiceArms(plain, None, more)._choose(plain.problems[0], (lucky, fair, lucky)))
    assert chosen["best_of_n_prm_tie"] == 0.0, "equal programs vote together"


def test_a_malformed_answer_with_a_program_has_no_score():
    plain, scorer = comparison()
    wrong, good = one_of_each(asyncio.run(plain.generate()))
    broken = dataclasses.replace(good, error="step 2 is malformed")
    scores = asyncio.run(last_scores(scorer, plain.workers.tokenizer, [broken, good, wrong], 600))
    assert scores == [0.0, 0.9, 0.2]


def test_of_equal_scores_the_first_is_chosen():
    plain, _ = comparison()
    generated = asyncio.run(plain.generate())
    arms = ChoiceArms(plain, generated, FixedScorer((0.9, 0.9), (0.9, 0.9)))
    for group, passed in ((one_of_each(generated), 0.0), (one_of_each(generated)[::-1], 1.0)):
        chosen = asyncio.run(arms._choose(plain.problems[0], group))
        assert chosen["best_of_n_prm"] == chosen["best_of_n_prm_vote"] == passed


def test_a_problem_without_a_well_formed_sample_counts_as_failed():
    plain, scorer = comparison()
    played = asyncio.run(plain.generate())
    arms, (_, good) = ChoiceArms(plain, played, scorer), one_of_each(played)
    for group in ([], [dataclasses.replace(good, verdict=None)]):
        assert set(asyncio.run(arms._choose(plain.problems[0], group)).values()) == {0.0}


def test_same_seed_same_figures():
    assert asyncio.run(played_figures())[1:] == asyncio.run(played_figures())[1:]
