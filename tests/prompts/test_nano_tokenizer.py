"""The nano tokenizer: exact text, reserved single ids, and lengths that a nano model can afford."""

import statistics

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import chat, direct, nano_tokenizer, pseudocode
from o1jax.records import InputError

VOCAB = 768


def texts_of(problem):
    yield pseudocode.messages(problem, style="nano")[0]["content"]
    yield direct.messages(problem, style="nano")[0]["content"]
    yield from map(pseudocode.render_path, problem.reasoning)
    yield from map(direct.render_answer, problem.solutions)


@pytest.fixture(scope="module")
def tokenizer():
    problems = ladder.make_problems("warm_up", {1: 80, 2: 120, 3: 120}, seed=0)
    return nano_tokenizer.train((text for p in problems for text in texts_of(p)), VOCAB)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\n\n  x = 1\n\ty\r\n",
        "naïve ☃ 漢字 \U0001f600\x00\x7f",
        "1234567890 -5 +7",
        "<Step_Begin>### Step 12: <Action 3>\n```python\nx = x + 1 - 2\n```<Step_End>\n",
        "a<|im_end|>b<|user|>c<|assistant|><|endoftext|>",
        "don't  ,  !! ?",
    ],
)
def test_any_text_round_trips(tokenizer, text):
    assert chat.decode(tokenizer, chat.encode(tokenizer, text)) == text


def test_ladder_texts_round_trip(tokenizer):
    for problem in ladder.make_problems("held_out", {1: 10, 4: 10}, seed=1):
        for text in texts_of(problem):
            assert chat.decode(tokenizer, chat.encode(tokenizer, text)) == text


def test_reserved_tokens_are_single_ids_with_fixed_places(tokenizer):
    reserved = nano_tokenizer.CONTROL_TOKENS + nano_tokenizer.TEXT_TOKENS
    assert [chat.encode(tokenizer, text) for text in reserved] == [(i,) for i in range(8)]
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.eos_token == "<|im_end|>"
    assert len(tokenizer) == VOCAB


def test_step_markers_and_scores_survive_skipping_special_tokens(tokenizer):
    text = "<Step_Begin>a +<Step_End> -"
    assert tokenizer.decode(chat.encode(tokenizer, text + "<|im_end|>"), skip_special_tokens=True) == text


def test_every_digit_stands_alone(tokenizer):
    for i in chat.encode(tokenizer, "1234 56 x78 = 90"):
        assert sum(c.isdigit() for c in chat.decode(tokenizer, [i])) <= 1


def test_a_step_header_is_a_few_tokens_and_its_number_one(tokenizer):
    assert len(chat.encode(tokenizer, "<Step_Begin>### Step 2: <Action 2>\n")) == 4


def test_the_stop_string_is_one_token_whatever_follows(tokenizer):
    end = chat.encode(tokenizer, pseudocode.STOP)[0]
    assert chat.encode(tokenizer, "a<Step_End>\n<Step_Begin>").count(end) == 1


def test_a_saved_tokenizer_is_loaded_the_same(tokenizer, tmp_path):
    chat.save_tokenizer(str(tmp_path / "tokenizer"), tokenizer)
    loaded = chat.load_tokenizer(str(tmp_path / "tokenizer"))
    problem = ladder.make_problems("pool", {2: 1}, seed=0)[0]
    messages = pseudocode.messages(problem, style="nano")
    assert chat.render(loaded, messages) == chat.render(tokenizer, messages)
    for text in [*texts_of(problem), "a +<Step_End> \n☃"]:
        assert chat.encode(loaded, text) == chat.encode(tokenizer, text)
        assert chat.decode(loaded, chat.encode(loaded, text)) == text
    assert loaded.eos_token_id == 1 and loaded.pad_token_id == 0
    assert loaded.get_vocab() == tokenizer.get_vocab()


def test_training_is_deterministic(tokenizer):
    problems = ladder.make_problems("warm_up", {1: 80, 2: 120, 3: 120}, seed=0)
    again = nano_tokenizer.train((text for p in problems for text in texts_of(p)), VOCAB)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_vocabulary_too_small_for_bytes_is_refused():
    with pytest.raises(InputError, match="wanted at least 264"):
        nano_tokenizer.train(["a"], 200)


def test_rung_3_is_compact(tokenizer):
    problems = ladder.make_problems("held_out", {3: 60}, seed=0)
    prompts = [len(chat.render(tokenizer, pseudocode.messages(p, style="nano"))) for p in problems]
    brief, detailed = (
        [len(chat.encode(tokenizer, pseudocode.render_path(p.reasoning[i]))) for p in problems]
        for i in (0, 1)
    )
    answers = [len(chat.encode(tokenizer, direct.render_answer(p.solutions[0]))) for p in problems]
    means = [statistics.mean(lengths) for lengths in (prompts, brief, detailed, answers)]
    assert all(mean <= limit for mean, limit in zip(means, (55, 110, 170, 55), strict=True)), means
