"""Plain sampling: whole answers, judged, to a number of samples or of tokens, and from a last step."""

import asyncio
import dataclasses

import pytest
import scripted
from scripted import ReadingJudge, ScriptedEngine, byte_tokenizer, path, problem, step

from o1jax.concurrency import run_in_order
from o1jax.prompts import chat, direct, nano_tokenizer
from o1jax.records import CaseResult, InputError, Status, Verdict
from o1jax.rewards.outcome import is_lost, search_tests
from o1jax.search import growth, mcts, sample_stage, sampling
from o1jax.search.steps import text_of
from o1jax.stages.manifest import StageResult, StageSpec, begin, finish

SETTINGS = sampling.SampleSettings(n=6, max_tokens=800)


def sampler(script, settings=SETTINGS, jitter_s=0.0):
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(tokenizer, script, jitter_s=jitter_s)
    return sampling.Sampler(engine, ReadingJudge(), tokenizer, settings)


def two_kinds(prefix, seed):
    return path(step(1, 1, "a"), step(2, 3, "good")) if seed % 2 else "nothing"


def test_answers_are_judged_and_malformed_ones_are_not():
    rollouts = asyncio.run(sampling.sample_paths(sampler(two_kinds), problem(), problem().tests, seed=0))
    assert [rollout.id for rollout in rollouts] == [f"p#{i}" for i in range(6)]
    assert {rollout.reward for rollout in rollouts} == {0.0, 1.0}
    for rollout in rollouts:
        assert (rollout.verdict is not None) == (rollout.reward == 1.0)
        assert rollout.finish_reason == "eos" and len(rollout.log_probs) == len(rollout.token_ids)


@pytest.mark.parametrize(("said", "reward"), [(direct.render_answer("good"), 1.0), ("good", 0.0)])
def test_the_direct_prompt_takes_one_fenced_program(said, reward):
    settings = dataclasses.replace(SETTINGS, prompt="direct", n=1)
    one = sampler(lambda prefix, seed: said, settings)
    (rollout,) = asyncio.run(sampling.sample_paths(one, problem(), problem().tests, seed=0))
    assert rollout.reward == reward
    assert rollout.prompt_ids != sampling.prompt_of(sampler(two_kinds), problem())


PROGRAM = direct.render_answer("print(input(), 'good')")
PLAN = step(1, 1, "a") + "\n<Step_Begin>### Step 2: <Action 3>\n"
FORMS = {  # what is said -> by which prompt, whether strict and whether lenient reading find the program
    "fence": ("direct", PROGRAM, True, True),
    "fence and example": ("direct", f"{PROGRAM}\n{direct.render_answer('print(1)')}", False, True),
    "no fence": ("direct", "print(input(), 'good')", False, True),
    "thoughts": ("direct", f"<think>\n{PROGRAM}", True, False),
    "well-formed path": ("pseudocode", f"{PLAN}{PROGRAM}<Step_End>", True, True),
    "no last marker": ("pseudocode", f"{PLAN}{PROGRAM}", True, True),
    "no language": ("pseudocode", PLAN + PROGRAM.replace("python", "") + "<Step_End>", False, True),
    "a refinement called action 3": (
        "pseudocode",
        f"{PLAN}read, then print<Step_End>\n<Step_Begin>### Step 3: <Action 3>\n{PROGRAM}<Step_End>",
        False,
        True,
    ),
    "the action's name for its marker": (
        "pseudocode",
        f"{step(1, 1, 'a')}\n<Step_Begin>### Step 2: Generate Python\nSo:\n{PROGRAM}<Step_End>",
        False,
        True,
    ),
    "a program in no action 3": ("pseudocode", PROGRAM, False, False),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_lenient_reading_finds_programs_and_still_says_what_is_malformed(form):
    prompt, said, is_strict, is_lenient = FORMS[form]
    for extract, found in (("", is_strict), ("strict", is_strict), ("lenient", is_lenient)):
        settings = dataclasses.replace(SETTINGS, prompt=prompt, n=1, extract=extract)
        one = sampler(lambda prefix, seed: said, settings)
        (rollout,) = asyncio.run(sampling.sample_paths(one, problem(), problem().tests, seed=0))
        assert (rollout.reward == 1.0) == bool(rollout.program) == found
        assert bool(rollout.error) == (not is_strict)


def test_evaluations_are_lenient_with_models_that_were_not_taught_here_and_training_never_is():
    for style, extract, wanted in (
        ("full", "", "lenient"),
        ("nano", "", "strict"),
        ("full", "strict", "strict"),
        ("nano", "lenient", "lenient"),
    ):
        settings = sampling.SampleSettings(style=style, extract=extract)
        assert sampling.for_evaluation(settings).extract == wanted
    with pytest.raises(InputError, match="sample.sample.extract: saw 'lenient', wanted 'strict'"):
        sample_stage.run(None, sample_stage.Settings(sample=settings), {}, 0)


@pytest.mark.parametrize("extract", ["strict", "lenient"])
def test_the_starter_code_stands_before_a_program_that_leans_on_it(extract):
    started = dataclasses.replace(
        problem(), form="call", entry_point="f", starter_code="import math\n\n\ndef f(x):\n    "
    )
    settings = dataclasses.replace(SETTINGS, prompt="direct", n=1, extract=extract)
    one = sampler(lambda prefix, seed: direct.render_answer("def f(x):\n    return math.pi"), settings)
    (rollout,) = asyncio.run(sampling.sample_paths(one, started, started.tests, seed=0))
    assert one.judge.sources == [rollout.program] == ["import math\n\n\ndef f(x):\n    return math.pi\n"]


def test_a_program_without_its_last_marker_is_whole_only_where_the_answer_ended():
    said = f"{PLAN}{PROGRAM}"
    for script, reason, error in (
        (said, "eos", ""),
        (said + "x" * 900, "length", "no <Step_End> within"),
        (said.removesuffix("```"), "eos", "the text ends without <Step_End>"),
    ):
        one = sampler(lambda prefix, seed, script=script: script, dataclasses.replace(SETTINGS, n=1))
        (rollout,) = asyncio.run(sampling.sample_paths(one, problem(), problem().tests, seed=0))
        assert rollout.finish_reason == reason and bool(rollout.program) == (error == "")
        assert rollout.error.startswith(error)


def test_samples_of_many_problems_do_not_depend_on_concurrency():
    def run(concurrency):
        many = sampler(scripted.random_script, jitter_s=0.002)
        tests_of = search_tests
        return asyncio.run(
            sampling.sample_many(many, scripted.PROBLEMS, tests_of, 0, concurrency=concurrency)
        )

    one = run(1)
    assert one == run(64) and [group[0].problem_id for group in one] == [p.id for p in scripted.PROBLEMS]


def test_best_of_n_at_equal_tokens_ends_within_half_an_answer_of_them():
    many = sampler(scripted.random_script)
    rollouts = asyncio.run(
        sampling.sample_until(many, problem(), problem().tests, 0, sampling.StopRule(tokens=1500))
    )
    lengths = [len(rollout.token_ids) for rollout in rollouts]
    assert abs(sum(lengths) - 1500) <= max(lengths) / 2 and len(lengths) > SETTINGS.n
    assert len({rollout.id for rollout in rollouts}) == len(rollouts)
    assert len({rollout.token_ids for rollout in rollouts}) > SETTINGS.n


def test_sampling_stops_at_the_rule_with_every_answer_that_was_paid_for():
    def script(prefix, seed):
        return path(step(1, 1, "a"), step(2, 3, "good" if seed % 2 else "bad"))

    one = sampler(script, dataclasses.replace(SETTINGS, n=1))

    def rewards(**rule):
        stop, found = sampling.StopRule(**rule), []
        for seed in range(20):
            rollouts = asyncio.run(sampling.sample_until(one, problem(), problem().tests, seed, stop))
            found.append([rollout.reward for rollout in rollouts])
        return found

    assert {len(group) for group in rewards(answers=4)} == {4}
    for group in rewards(answers=6, passes=1):
        assert 1.0 not in group[:-1] and (len(group) == 6 or group[-1] == 1)
    both = rewards(answers=40, passes=2, fails=2)
    assert all(sorted(group)[1] == 0 and sorted(group)[-2] == 1 for group in both)
    assert all(group.count(group[-1]) == 2 for group in both)
    with pytest.raises(InputError, match="neither tokens nor answers"):
        rewards(passes=1)


def to_total(n_problems, tokens, stop, seed=0):
    """The groups of sample_to_total, and of each round (open problems, answers before, answers)."""
    problems = [problem(f"p{i}") for i in range(n_problems)]

    def script(prefix, seed):  # every third answer passes, if the problem does not say otherwise
        return path(step(1, 1, "a"), step(2, 3, "good" if seed % 3 == 0 else "bad" + "!" * (seed % 7)))

    one, rounds = sampler(script), []

    async def sample_round(number, open_problems, before, n):
        assert number == len(rounds)
        rounds.append((len(open_problems), before, n))
        return {p.id: await sampling.sample_more(one, p, p.tests, seed, before, n) for p in open_problems}

    groups = asyncio.run(sampling.sample_to_total(problems, tokens, stop, seed, sample_round))
    return groups, rounds


def lengths_of(groups):
    return [[len(rollout.token_ids) for rollout in group] for group in groups]


def test_a_total_is_spent_within_half_an_answer_and_problems_take_turns():
    for tokens in (5_000, 20_000, 20_060):
        groups, rounds = to_total(9, tokens, sampling.StopRule())
        lengths = lengths_of(groups)
        longest = max(map(max, lengths))
        assert abs(sum(map(sum, lengths)) - tokens) <= longest / 2
        counts = sorted(map(len, lengths))
        assert counts[-1] - counts[0] <= 1 and len(rounds) < counts[-1]
        for group in groups:
            assert [rollout.id for rollout in group] == [
                f"{group[0].problem_id}#{i}" for i in range(len(group))
            ]
    first = [group[0].problem_id for group in groups]
    assert first == [f"p{i}" for i in range(9)]


def test_at_a_total_no_answer_is_counted_beyond_the_stop_and_others_get_what_is_left():
    groups, _ = to_total(30, 9_000, sampling.StopRule(passes=1))
    assert max(map(len, groups)) > 1  # some did not pass at once
    for group in groups:
        rewards = [rollout.reward for rollout in group]
        assert 1.0 not in rewards[:-1]
    unsolved = [group for group in groups if group[-1].reward == 0]
    assert max(map(len, groups)) - min(map(len, unsolved), default=99) <= 1
    spent = sum(map(sum, lengths_of(groups)))
    # More than there is to spend: all end by the rule, below the budget.
    all_ended, _ = to_total(30, 10 * spent, sampling.StopRule(passes=1))
    assert all(group[-1].reward == 1 for group in all_ended)
    assert sum(map(sum, lengths_of(all_ended))) < 10 * spent
    # Less than an answer each: each gets one.
    assert {len(group) for group in to_total(4, 1, sampling.StopRule())[0]} == {1}
    assert to_total(30, 9_000, sampling.StopRule(passes=1))[0] == groups


def test_the_rule_and_the_tokens_of_a_match_are_the_searches_own(tmp_path):
    directories = []
    for name, kind, search, tokens in (
        ("scout", "sample", {}, 1_000),
        ("search", "search", {"search": {"stop_after_passes": 2, "stop_after_fails": 3}}, 500),
        ("evaluated", "evaluate", {}, 7),
    ):
        spec = StageSpec(kind, search, 0, {})
        begin(tmp_path / name, spec)
        finish(tmp_path / name, spec, StageResult({"generated_tokens": tokens}, {}))
        directories.append(tmp_path / name)
    assert sample_stage.tokens_of_stages(directories[:2]) == 1_500
    stop = sample_stage.rule_of_match(sampling.StopRule(tokens=99, answers=5), directories[:2])
    assert stop == sampling.StopRule(answers=5, passes=2, fails=3)
    given = sample_stage.rule_of_match(sampling.StopRule(passes=1), directories[:2])
    assert given == sampling.StopRule(passes=1)
    with pytest.raises(InputError, match="is a stage evaluate, wanted one of search and sample"):
        sample_stage.tokens_of_stages(directories)


def test_aspr_samples_programs_from_the_last_step_of_the_passing_path():
    said = path(step(1, 1, "a"), step(2, 2, "b"))

    def script(prefix, seed):
        whole = said + "\n" + step(3, 3, "good" if seed % 2 else "bad")
        return whole[len(prefix) :]

    again = sampler(script)
    settings = growth.SearchSettings(rollouts=8, max_path_tokens=900)
    searcher = growth.Searcher(again.engine, again.judge, again.tokenizer, settings)
    tree = asyncio.run(mcts.Search(searcher, problem(), seed=0).run())
    rollouts = asyncio.run(sampling.sample_last_step(again, tree, problem(), problem().tests, seed=0))
    assert len(rollouts) == 6 and {rollout.reward for rollout in rollouts} == {0.0, 1.0}
    assert again.tokenizer.decode(rollouts[0].prompt_ids).endswith(said)


def test_no_special_token_is_part_of_a_program():
    tokenizer = nano_tokenizer.train(["abc"], 300)
    ids = chat.encode(tokenizer, "  x = 1<|user|>\ny<|im_end|>")
    assert text_of(tokenizer, ids) == "  x = 1\ny"


def test_aspr_of_an_unsolved_tree_is_refused():
    none = sampler(lambda prefix, seed: step(1, 3, "bad"))
    settings = growth.SearchSettings(rollouts=1, max_path_tokens=900)
    searcher = growth.Searcher(none.engine, none.judge, none.tokenizer, settings)
    tree = asyncio.run(mcts.Search(searcher, problem(), seed=0).run())
    with pytest.raises(InputError, match="problem p: search did not solve it"):
        asyncio.run(sampling.sample_last_step(none, tree, problem(), problem().tests, seed=0))


def test_the_first_failure_cancels_what_else_runs_and_is_raised():
    ended = []

    async def work(item):
        try:
            await asyncio.sleep(10 if item else 0.01)
        finally:
            ended.append(item)
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        asyncio.run(run_in_order(work, [0, 1, 2], concurrency=2))
    assert {0, 1} <= set(ended)  # the one that waited may have begun, and was cancelled too


def test_an_answer_that_the_judge_lost_has_no_reward_and_says_so():
    class LosingJudge(ReadingJudge):
        async def judge(self, job):
            return Verdict(False, (CaseResult(Status.SANDBOX_ERROR),))

    one = dataclasses.replace(sampler(two_kinds), judge=LosingJudge())
    rollouts = asyncio.run(sampling.sample_paths(one, problem(), problem().tests, seed=0))
    assert is_lost(rollouts) and {rollout.reward for rollout in rollouts} == {0.0}
