"""Where an answer ends: every token that a published directory names, and the one that is taught."""

import json

import directories
import pytest

from o1jax.prompts import chat
from o1jax.prompts.ends import end_ids, with_end_ids
from o1jax.records import InputError

END, START, TURN = 0, 1, 2  # <|endoftext|>, <|im_start|>, <|im_end|>


def ends_of(path, *, generation=None, config=None, **settings):
    directories.byte_level(path, **settings)
    if generation is not None:
        directories.write_json(path / "generation_config.json", eos_token_id=generation)
    if config is not None:
        directories.write_json(path / "config.json", eos_token_id=config)
    return end_ids(chat.load_tokenizer(str(path)))


def test_the_first_end_is_the_chat_templates_and_all_end_a_sample(tmp_path):
    assert ends_of(tmp_path / "base") == (TURN, END)  # its eos is another, and no file names <|im_end|>
    assert ends_of(tmp_path / "list", generation=[END, TURN], eos="<|im_end|>") == (TURN, END)
    assert ends_of(tmp_path / "one", generation=TURN, chat_template=None) == (END, TURN)
    assert ends_of(tmp_path / "none", chat_template=None) == (END,)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{% for m in messages %}<|im_start|>{{ m['content'] }}\n{% endfor %}",  # a turn has no end
        directories.CHAT.replace("<|im_end|>", "").replace("{% if add_generation_prompt %}", "{% if true %}"),
        {"tool_use": "x"},
    ],
)
def test_a_template_that_ends_no_turn_leaves_the_tokenizers_own_end(tmp_path, template):
    named = template if isinstance(template, str) else [{"name": "tool_use", "template": "x"}]
    assert ends_of(tmp_path, chat_template=named) == (END,)


def test_a_turn_may_end_with_the_token_that_opened_it_if_it_is_known_as_an_end(tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}"
    assert ends_of(tmp_path / "unknown", chat_template=template) == (END,)
    assert ends_of(tmp_path / "known", chat_template=template, generation=[TURN]) == (TURN, END)


def test_config_json_names_ends_where_no_generation_config_does_but_no_words(tmp_path):
    assert ends_of(tmp_path / "special", config=[TURN], chat_template=None) == (END, TURN)
    assert ends_of(tmp_path / "word", config=40, chat_template=None) == (END,)
    assert ends_of(tmp_path / "both", config=[START], generation=TURN, chat_template=None) == (END, TURN)


@pytest.mark.parametrize("named", ["</s>", [1.5], -1])
def test_ends_that_are_no_ids_are_refused(tmp_path, named):
    with pytest.raises(InputError, match="eos_token_id is .*, wanted a token's id"):
        ends_of(tmp_path, generation=named)


def test_ends_that_were_given_survive_saving_and_are_written_for_others(tmp_path):
    directories.byte_level(tmp_path / "read", chat_template=None)
    tokenizer = with_end_ids(chat.load_tokenizer(str(tmp_path / "read")), [START, TURN])
    chat.save_tokenizer(tmp_path / "saved", tokenizer)
    assert end_ids(chat.load_tokenizer(str(tmp_path / "saved"))) == end_ids(tokenizer) == (END, START, TURN)
    written = json.loads((tmp_path / "saved" / "generation_config.json").read_text())
    assert written["eos_token_id"] == [END, START, TURN]


def test_a_tokenizer_without_an_end_or_longer_than_the_embedding_is_refused(tmp_path):
    directories.byte_level(tmp_path, chat_template=None, eos=None)
    tokenizer = chat.load_tokenizer(str(tmp_path))
    with pytest.raises(InputError, match="no token ends an answer; set eos_token"):
        chat.check_embedding(tokenizer, 259, "x")
    chat.check_embedding(with_end_ids(tokenizer, [TURN]), 259, "x")
    with pytest.raises(InputError, match=r"ids up to 258 and its embedding 258 rows \(ids up to 257\)"):
        chat.check_embedding(tokenizer, 258, "x")
