"""Where answers end, how texts begin, and what a chat template that fails says."""

import json

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, processors

from o1jax.prompts import chat, nano_tokenizer
from o1jax.prompts.ends import GENERATION, end_ids, with_end_ids
from o1jax.records import InputError

USER = [{"role": "user", "content": "ab"}]
SYSTEM = [{"role": "system", "content": "be brief"}, *USER]


def saved(directory, **files):
    """The nano tokenizer in a directory, with further JSON files; a file's name is given without .json."""
    chat.save_tokenizer(directory, nano_tokenizer.train(["ab"], 300))
    (directory / GENERATION).unlink()
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def test_every_end_that_a_directory_names_ends_an_answer(tmp_path):
    tokenizer = chat.load_tokenizer(saved(tmp_path, generation_config={"eos_token_id": [0, 2]}))
    assert end_ids(tokenizer) == (1, 0, 2)  # first the one that the template closes a turn with
    chat.save_tokenizer(tmp_path / "again", tokenizer)
    assert end_ids(chat.load_tokenizer(tmp_path / "again")) == (1, 0, 2)
    named = json.loads((tmp_path / "again" / GENERATION).read_text(encoding="utf-8"))["eos_token_id"]
    assert named == [1, 0, 2]  # as transformers and vLLM read it


def test_what_the_template_ends_a_turn_with_ends_an_answer(tmp_path):
    tokenizer = nano_tokenizer.train(["ab"], 300)
    tokenizer.eos_token = nano_tokenizer.PAD  # as base models: another token ends a text
    tokenizer.init_kwargs.pop("o1jax_end_ids", None)
    assert end_ids(with_end_ids(tokenizer, [])) == (1, 0)


@pytest.mark.parametrize("named", ["2", {"a": 1}, [-1], True])
def test_an_end_that_is_no_id_is_refused(named, tmp_path):
    with pytest.raises(InputError, match="eos_token_id"):
        chat.load_tokenizer(saved(tmp_path, generation_config={"eos_token_id": named}))


def test_a_tokenizer_with_more_ids_than_rows_is_refused():
    tokenizer = nano_tokenizer.train(["ab"], 300)
    with pytest.raises(InputError, match="embedding 100 rows"):
        chat.check_embedding(tokenizer, 100, "policy")


def sentencepiece(adds_bos=False):
    """A Llama-like tokenizer: blanks are signs, and a text begins with one."""
    raw = [f"<0x{i:02X}>" for i in range(256)]
    vocabulary = ["<unk>", "<s>", "</s>", *raw, "▁", *map(chr, range(33, 127))]
    built = tokenizers.Tokenizer(
        models.BPE({text: i for i, text in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True)
    )
    built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    built.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    if adds_bos:
        built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>")


def test_the_indent_that_an_answer_begins_with_stays():
    tokenizer, text = sentencepiece(), "    return a\n"
    ids = chat.encode(tokenizer, text)
    assert chat.decode(tokenizer, ids) == text
    assert chat.decode(tokenizer, ids[2:]) == text[2:]


def test_a_text_begins_as_its_tokenizer_begins_one_and_a_conversation_as_its_template():
    tokenizer = sentencepiece(adds_bos=True)
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert chat.begin(tokenizer, "ab")[:1] == (1,)
    assert chat.render(tokenizer, USER).count(1) == 1
    assert 1 not in chat.encode(tokenizer, "ab")


def refusing(kind):
    check = "{% if m['role'] == 'system' %}" + kind + "{% endif %}"
    return "{% for m in messages %}" + check + "{{ m['content'] }}{% endfor %}"


def test_a_system_message_that_a_template_refuses_is_put_before_the_question(caplog):
    tokenizer = nano_tokenizer.train(["ab"], 300)
    tokenizer.name_or_path = "refusing"
    tokenizer.chat_template = refusing("{{ raise_exception('System role not supported') }}")
    assert chat.decode(tokenizer, chat.render(tokenizer, SYSTEM)) == "be brief\n\nab"
    chat.render(tokenizer, SYSTEM)
    assert caplog.text.count("takes no system message") == 1


@pytest.mark.parametrize(
    "template, message",
    [
        ("{% for m in messages %}{{ m['content'] }}", "endfor"),
        ("{{ raise_exception('only\nthree turns') }}", "only three turns"),
        ("{{ messages[0].content + nothing_there.x }}", "nothing_there"),
    ],
)
def test_a_template_that_fails_is_one_line(template, message):
    tokenizer = nano_tokenizer.train(["ab"], 300)
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message) as refused:
        chat.render(tokenizer, SYSTEM)
    assert "\n" not in str(refused.value)
