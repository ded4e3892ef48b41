"""A tokenizer made of a GGUF file's metadata gives the ids of the tokenizer that the file was made from."""

import itertools
import json
import pathlib

import pytest
import tokenizers

from o1jax.prompts import chat
from o1jax.prompts.gguf_tokenizer import SPLITTING, Kind, tokenizer_of
from o1jax.records import InputError

DATA = pathlib.Path(__file__).parents[3] / "shared" / "data"
QWEN, MBPP = DATA / "qwen2.5_tokenizer", DATA / "mbpp" / "mbpp.jsonl"
needs_data = pytest.mark.skipif(not QWEN.exists(), reason="../shared/data/qwen2.5_tokenizer is not there")

ALPHABET = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())


def metadata_of(tokens, kinds, merges, pre, **more):
    named = {"model": "gpt2", "pre": pre, "tokens": tokens, "token_type": kinds, "merges": merges, **more}
    return {f"tokenizer.ggml.{name}": value for name, value in named.items()}


def tiny(pre, **more):
    """Bytes, "12", "123", "ab", an end and a beginning, a tool's mark, and two unused rows."""
    tokens = [*ALPHABET, "12", "123", "ab", "Ġa", "<|end|>", "<|begin|>", "<tool>", "[PAD0]", "[PAD1]"]
    n = len(ALPHABET) + 4
    kinds = [Kind.NORMAL] * n + [Kind.CONTROL, Kind.CONTROL, Kind.USER_DEFINED, Kind.UNUSED, Kind.UNUSED]
    merges = ["1 2", "12 3", "a b", "Ġ a"]
    return metadata_of(tokens, kinds, merges, pre, **{"eos_token_id": n, "bos_token_id": n + 1, **more})


def pieces(pre, text):
    tokenizer = tokenizer_of(tiny(pre), "m.gguf")
    return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False)["input_ids"])


@needs_data
def test_qwen_s_ids_are_those_of_its_own_tokenizer():
    theirs = chat.load_tokenizer(str(QWEN))
    vocabulary = json.loads((QWEN / "vocab.json").read_text(encoding="utf-8"))
    added = {i: str(token) for i, token in theirs.added_tokens_decoder.items()}
    texts = {i: text for text, i in vocabulary.items()} | added
    special = {i for i, token in theirs.added_tokens_decoder.items() if token.special}
    kinds = [
        (Kind.CONTROL if i in special else Kind.USER_DEFINED) if i in added else Kind.NORMAL
        for i in sorted(texts)
    ]
    tokens = [texts[i] for i in sorted(texts)]
    padding = 151_936 - len(tokens)
    merges = (QWEN / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in merges if line and not line.startswith("#version")]
    metadata = metadata_of(
        [*tokens, *(f"[PAD{i}]" for i in range(padding))],
        [*kinds, *[Kind.UNUSED] * padding],
        merges,
        "qwen2",
        eos_token_id=theirs.eos_token_id,
    )
    ours = tokenizer_of(metadata, "qwen.gguf")
    assert len(ours) == len(theirs)
    records = map(json.loads, MBPP.read_text(encoding="utf-8").splitlines())
    records = itertools.islice(records, 500)
    for text in itertools.chain(*((r["text"], r["code"]) for r in records), ODD):
        ids = chat.encode(theirs, text)
        assert chat.encode(ours, text) == ids, text
        assert chat.decode(ours, ids) == chat.decode(theirs, ids)


ODD = (
    "cafe\u0301 – “naïve” 日本語 한국어 ٣٤٥ 12345678",
    "a<|im_end|>\n<tool_call>b</tool_call><|endoftext|>",
    "if x:\r\n\tpass  \n\n\n    y = 1_000.5e-3  # it's, I'LL, WE'd\n",
)


@pytest.mark.parametrize(
    "pre, wanted",
    [
        ("smollm", ["1", "2", "3"]),
        ("qwen2", ["1", "2", "3"]),
        ("deepseek-coder", ["1", "2", "3"]),
        ("llama-bpe", ["123"]),
    ],
)
def test_digits_are_split_as_the_name_says(pre, wanted):
    assert pieces(pre, "123") == wanted


@pytest.mark.parametrize("pre", SPLITTING)
def test_text_and_marks_come_back(pre):
    assert pieces(pre, "ab<tool>ab a<|end|>") == ["ab", "<tool>", "ab", "Ġa", "<|end|>"]
    tokenizer = tokenizer_of(tiny(pre), "m.gguf")
    text = "def f(x):\r\n\treturn 'é 한'  # 12 ab\n\n"
    assert chat.decode(tokenizer, chat.encode(tokenizer, text)) == text


def test_unused_rows_are_no_tokens_and_special_ones_are_named():
    tokenizer = tokenizer_of(tiny("qwen2"), "m.gguf")
    assert len(tokenizer) == len(ALPHABET) + 7 and "[PAD0]" not in tokenizer.get_vocab()
    assert (tokenizer.eos_token, tokenizer.bos_token) == ("<|end|>", "<|begin|>")
    assert tokenizer.decode(tokenizer("ab<|end|><tool>")["input_ids"], skip_special_tokens=True) == "ab<tool>"


@pytest.mark.parametrize(
    "pre, says, begins",
    [("llama-bpe", None, True), ("llama-bpe", False, False), ("qwen2", None, False), ("qwen2", True, True)],
)
def test_a_text_begins_as_the_file_says_or_its_kind_does(pre, says, begins):
    more = {} if says is None else {"add_bos_token": says}
    tokenizer = tokenizer_of(tiny(pre, **more), "m.gguf")
    assert (tokenizer("ab")["input_ids"][0] == tokenizer.bos_token_id) == begins


@pytest.mark.parametrize(
    "metadata, message",
    [
        (tiny("qwen2") | {"tokenizer.ggml.model": "llama"}, "of model 'llama', wanted 'gpt2'"),
        (tiny("tekken"), "pre-tokenizer is 'tekken', wanted one of qwen2, llama-bpe"),
        ({k: v for k, v in tiny("qwen2").items() if "merges" not in k}, "has no tokenizer.ggml.merges"),
        (tiny("qwen2", eos_token_id=9_999), "eos_token_id 9999"),
    ],
)
def test_what_is_not_supported_is_named(metadata, message):
    with pytest.raises(InputError, match=message) as refused:
        tokenizer_of(metadata, "m.gguf")
    assert str(refused.value).startswith("m.gguf") and "\n" not in str(refused.value)
