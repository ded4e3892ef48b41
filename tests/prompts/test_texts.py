"""Texts to ids and back, for tokenizers that begin a text in their own way, and the files they come from."""

import pathlib
import struct

import directories
import pytest
import transformers
from tokenizers import Regex, pre_tokenizers

from o1jax.engine.jobs import token_bytes
from o1jax.prompts import chat, nano_tokenizer
from o1jax.records import InputError

STORIES = pathlib.Path(__file__).parents[3] / "shared/data/stories260k/tok512.bin"
SOURCE = "def f(n):\n    if n < 12345:\n        return [2024, 100]\n\n    x = 3.14159;  \n"
ASCII = ["▁", "▁▁▁▁", *map(chr, range(33, 127))]
SPLITS = {
    "words": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "three digits": pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}{1,3}| ?\p{L}+|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    ),
}


def stories_pieces() -> list[tuple[float, str]]:
    """(score, piece) of the tokenizer of a real sentencepiece Llama, from its llama2.c file."""
    data, offset, pieces = STORIES.read_bytes(), 4, []
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        pieces.append((score, data[offset + 8 : offset + 8 + length].decode().replace(" ", "▁")))
        offset += 8 + length
    return pieces


@pytest.fixture(params=["made", "stories260k"])
def llama(request, tmp_path):
    """A sentencepiece tokenizer, made or the real one of a trained model."""
    if request.param == "made":
        directories.sentencepiece(tmp_path, ASCII)
    elif not STORIES.exists():
        pytest.skip("../shared/data/stories260k is not there")
    else:
        # sentencepiece merges whatever two pieces make the piece with the highest score.
        scored = stories_pieces()[259:]
        words = {word for _, word in scored}
        ranked = [word for _, word in sorted(scored, key=lambda pair: -pair[0]) if len(word) > 1]
        cuts = [(word[:i], word[i:]) for word in ranked for i in range(1, len(word))]
        merges = [(a, b) for a, b in cuts if a in words and b in words]
        directories.sentencepiece(tmp_path, [word for _, word in scored], merges)
    return chat.load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("text", ["", "x", "    return a", " y", "\n\n  z", "# é 漢 \U0001f600", SOURCE])
def test_a_sentencepiece_text_comes_back_with_its_first_blanks(llama, text):
    ids = chat.encode(llama, text)
    assert chat.decode(llama, ids) == text
    for cut in range(len(ids) + 1):
        table = token_bytes(llama, len(llama))
        wanted = b"".join(table[i] for i in ids[cut:])
        if wanted.decode(errors="ignore").encode() == wanted:  # the cut is between characters
            assert chat.decode(llama, ids[cut:]) == wanted.decode()


def test_an_answer_that_begins_with_an_indent_keeps_it(llama):
    blank = llama.convert_tokens_to_ids("▁")
    assert chat.decode(llama, [blank, blank, llama.convert_tokens_to_ids("a")]) == "  a"


def test_a_plain_text_begins_as_the_tokenizers_own_and_a_chat_as_the_template_says(llama, tmp_path):
    assert chat.begin(llama, SOURCE) == tuple(llama(SOURCE)["input_ids"])
    assert chat.begin(llama, SOURCE)[0] == llama.bos_token_id
    llama.chat_template = "{{ bos_token }}{{ messages[0]['content'] }}"
    assert chat.render(llama, [{"role": "user", "content": "a"}]).count(llama.bos_token_id) == 1
    plain = nano_tokenizer.train(["abc"], 300)
    assert chat.begin(plain, SOURCE) == chat.encode(plain, SOURCE)


def test_a_text_to_go_on_from_is_not_ended_by_a_tokenizer_that_ends_texts(llama):
    llama.add_eos_token = True
    ids = llama("a")["input_ids"]
    assert ids[-1] == llama.eos_token_id and chat.begin(llama, "a")[-1] != llama.eos_token_id


def test_incomplete_characters_are_read_as_the_tokenizer_reads_them():
    nano = nano_tokenizer.train(["abc"], 300)
    ids = chat.encode(nano, "é\U0001f600 漢")
    for cut in range(len(ids)):
        assert chat.decode(nano, ids[cut:]) == nano.decode(ids[cut:])
        assert chat.decode(nano, ids[:cut]) == nano.decode(ids[:cut])


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("named", [None, "PreTrainedTokenizerFast", "LlamaTokenizerFast", "GPT2Tokenizer"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_ids_are_those_of_tokenizer_json_whatever_class_is_named(tmp_path, split, named, family):
    directories.byte_level(tmp_path, split=SPLITS[split], **({"tokenizer_class": named} if named else {}))
    directories.write_json(tmp_path / "config.json", model_type=family)
    loaded = chat.load_tokenizer(str(tmp_path))
    wanted = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert list(chat.encode(loaded, SOURCE)) == wanted(SOURCE)["input_ids"]


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_what_is_saved_beside_a_model_is_read_alike_by_transformers(tmp_path, family):
    directories.byte_level(tmp_path / "own", split=SPLITS["three digits"], begins=True)
    tokenizer = chat.load_tokenizer(str(tmp_path / "own"))
    chat.save_tokenizer(tmp_path / "saved", tokenizer, family)
    directories.write_json(tmp_path / "saved" / "config.json", model_type=family)
    for read in (chat.load_tokenizer, transformers.AutoTokenizer.from_pretrained):
        again = read(str(tmp_path / "saved"))
        assert again(SOURCE)["input_ids"] == tokenizer(SOURCE)["input_ids"]
        assert again.chat_template == tokenizer.chat_template and again.eos_token == tokenizer.eos_token
        assert again.backend_tokenizer.pre_tokenizer.__getstate__() == SPLITS["three digits"].__getstate__()


def test_gaps_between_ids_are_counted_and_add_no_text(tmp_path):
    directories.byte_level(tmp_path, far=300)
    tokenizer = chat.load_tokenizer(str(tmp_path))
    table = token_bytes(tokenizer, 310)
    assert chat.size(tokenizer) == 301 and len(table) == 310
    assert table[300] == b"far" and table[280:300] == [b""] * 20 and table[3] == b"!"


def test_a_tokenizer_model_without_its_library_is_one_line(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(InputError) as refused:
        chat.load_tokenizer(str(tmp_path))
    assert len(str(refused.value).splitlines()) == 1
