"""The only template renderer, on the nano template and on a real tokenizer."""

import pathlib

import pytest

from o1jax.problems.ladder import problems as ladder
from o1jax.prompts import chat, direct, fence, nano_tokenizer, pseudocode
from o1jax.records import InputError

# Shared beside the repository, not in it: the tokenizer of Qwen2.5.
QWEN = pathlib.Path(__file__).parents[3] / "shared" / "data" / "qwen2.5_tokenizer"
needs_qwen = pytest.mark.skipif(
    not QWEN.exists(), reason="the Qwen2.5 tokenizer is not beside the repository"
)


@pytest.fixture(scope="module")
def qwen():
    return chat.load_tokenizer(str(QWEN))


@pytest.fixture(scope="module")
def problem():
    return ladder.make_problems("pool", {3: 1}, seed=0)[0]


def test_a_prompt_is_the_same_every_day_and_does_not_begin_to_think():
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.chat_template = (  # as those of Llama 3.2 and Qwen3 do
        "{{ date_string if date_string is defined else strftime_now('%d %b %Y') }} {{ messages[0].content }}"
        "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    )
    text = chat.decode(tokenizer, chat.render(tokenizer, [{"role": "user", "content": "a"}]))
    assert text == "26 Jul 2024 a<think></think>"


def test_the_nano_template_is_minimal():
    tokenizer = nano_tokenizer.train(["abc"], 300)
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert (
        chat.decode(tokenizer, chat.render(tokenizer, turns))
        == "<|user|>a<|assistant|>b<|im_end|><|user|>c<|assistant|>"
    )


def test_a_tokenizer_without_template_or_directory_is_refused(tmp_path):
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        chat.render(tokenizer, [{"role": "user", "content": "a"}])
    with pytest.raises(InputError, match="no tokenizer at"):
        chat.load_tokenizer(str(tmp_path))
    with pytest.raises(InputError, match="no tokenizer at"):
        chat.load_tokenizer(str(tmp_path / "missing"))


TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
PLAIN = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('not so') }}{% endif %}" + PLAIN


def test_a_refused_system_message_begins_the_first_user_message_and_it_is_said_once(caplog):
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.name_or_path, tokenizer.chat_template = "refuses", NO_SYSTEM
    turns = [*TALK, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    for _ in range(2):
        text = chat.decode(tokenizer, chat.render(tokenizer, turns))
    assert text == "[user]Be brief.\n\na[assistant]b[user]c"
    assert [record.message for record in caplog.records if "takes no system message" in record.message] == [
        "tokenizer 'refuses': its chat template takes no system message; it is put before the first user's"
    ]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('never\ntwice') }}", "never twice"),
        ("{{ messages[0].nothing.more }}", "has no attribute"),
        ("{{ 1 + messages[0]['content'] }}", "unsupported operand"),
    ],
)
def test_a_template_that_fails_is_one_clear_line(template, reason):
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=f"its chat template fails: .*{reason}") as refused:
        chat.render(tokenizer, TALK)
    assert len(str(refused.value).splitlines()) == 1


def test_of_several_templates_the_default_is_taken_and_without_one_their_names_are_said(tmp_path):
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.chat_template = {"default": PLAIN, "tool_use": "x"}
    chat.save_tokenizer(tmp_path, tokenizer)
    for each in (tokenizer, chat.load_tokenizer(str(tmp_path))):
        assert chat.decode(each, chat.render(each, TALK)) == "[system]Be brief.[user]a"
    tokenizer.chat_template = {"tool_use": "x", "rag": "y"}
    with pytest.raises(InputError, match="the chat templates rag, tool_use, wanted one named default"):
        chat.render(tokenizer, TALK)


def test_a_template_in_a_file_of_its_own_is_read(tmp_path):
    tokenizer = nano_tokenizer.train(["abc"], 300)
    tokenizer.chat_template = None
    chat.save_tokenizer(tmp_path, tokenizer)
    (tmp_path / "chat_template.jinja").write_text(PLAIN + "☃", encoding="utf-8")
    loaded = chat.load_tokenizer(str(tmp_path))
    assert chat.decode(loaded, chat.render(loaded, TALK)) == "[system]Be brief.[user]a☃"
    chat.save_tokenizer(tmp_path / "again", loaded)
    assert chat.load_tokenizer(str(tmp_path / "again")).chat_template == PLAIN + "☃"


@pytest.mark.parametrize("content", ["", "{", "{}", "[1]"])
def test_a_corrupt_tokenizer_is_one_clear_line(tmp_path, content):
    chat.save_tokenizer(str(tmp_path), nano_tokenizer.train(["abc"], 300))
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match="no tokenizer at") as caught:
        chat.load_tokenizer(str(tmp_path))
    assert "\n" not in str(caught.value)


@needs_qwen
def test_qwen_renders_its_own_template(qwen, problem):
    text = chat.decode(qwen, chat.render(qwen, pseudocode.messages(problem, few_shot=2)))
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert text.count("<|im_start|>assistant") == 3
    assert text.count(problem.question) == 1


@needs_qwen
def test_paths_parse_from_qwen_tokens(qwen, problem):
    for chain in problem.reasoning:
        path = chat.decode(qwen, chat.encode(qwen, pseudocode.render_path(chain)))
        texts = [text + pseudocode.STOP for text in path.split(pseudocode.STOP)[:-1]]
        assert tuple(pseudocode.parse_step(text, k) for k, text in enumerate(texts, 1)) == chain
    answer = chat.decode(qwen, chat.encode(qwen, direct.render_answer(problem.solutions[0])))
    assert fence.only_program(answer) == problem.solutions[0]


@needs_qwen
def test_a_step_parses_although_its_last_qwen_token_holds_the_line_end(qwen):
    ids = chat.encode(qwen, "<Step_Begin>### Step 1: <Action 1>\nread<Step_End>\n")
    assert chat.decode(qwen, ids[-1:]).endswith("\n")
    assert pseudocode.parse_step(chat.decode(qwen, ids), 1).text == "read"


@needs_qwen
def test_score_words_are_single_qwen_tokens(qwen):
    assert len(chat.encode(qwen, " +")) == len(chat.encode(qwen, " -")) == 1
