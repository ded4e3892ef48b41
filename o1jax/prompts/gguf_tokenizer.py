"""The tokenizer that a GGUF file's metadata describes: a byte-level BPE.

A file holds tokens and merges, and of the splitting before them only a name; what each name stands for is
written here, after the models' own tokenizer.json. Reads no files.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import PreTokenizer

from o1jax.prompts.chat import Tokenizer
from o1jax.prompts.ends import with_end_ids
from o1jax.records import InputError

PREFIX = "tokenizer.ggml."
MORE_ENDS = ("eot_token_id", "eom_token_id")  # of a turn, of a message: they end an answer, as eos does


class Kind(enum.IntEnum):
    """What a token is, as llama.cpp numbers it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # special: <|im_end|>
    USER_DEFINED = 4  # never split, but text: <tool_call>
    UNUSED = 5  # a row of the embedding that no text has
    BYTE = 6


def splitting(*patterns: str) -> list[PreTokenizer]:
    """Splits at each pattern in turn, every match being a piece of its own."""
    return [pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated") for pattern in patterns]


def words(digits: str) -> list[PreTokenizer]:
    """GPT-4's splitting, with so many digits to a piece."""
    return splitting(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
DIGITS = pre_tokenizers.Digits(individual_digits=True)
SPLITTING = {
    "qwen2": [*words(r"\p{N}"), BYTES],
    "llama-bpe": [*words(r"\p{N}{1,3}"), BYTES],
    "smollm": [DIGITS, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)],  # GPT-2's words
    "deepseek-coder": [
        *splitting(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"),
        DIGITS,
        BYTES,
    ],
}
NORMALIZED = {"qwen2": normalizers.NFC()}
WHOLE_WORDS = ("llama-bpe",)  # a piece that is a token is taken, whether merges lead to it or not
BEGIN_FIRST = ("llama-bpe",)  # begins texts with its first token where the file does not say


def tokenizer_of(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer, with its chat template, if there is one; `where` begins the message of an InputError,
    which names a model or pre-tokenizer that is not supported."""
    own = {name.removeprefix(PREFIX): value for name, value in metadata.items()}
    if (model := own.get("model")) != "gpt2":
        raise InputError(f"{where}: its tokenizer is of model {model!r}, wanted 'gpt2' (a byte-level BPE)")
    if (pre := own.get("pre")) not in SPLITTING:
        raise InputError(f"{where}: its pre-tokenizer is {pre!r}, wanted one of {', '.join(SPLITTING)}")
    for name in ("tokens", "merges", "token_type", "eos_token_id"):
        if name not in own:
            raise InputError(f"{where} has no {PREFIX}{name}, which a tokenizer needs")
    texts, kinds = named(own["tokens"], own["token_type"])
    merges = [tuple(merge.split(" ", 1)) for merge in own["merges"]]
    vocabulary = {text: i for i, text in enumerate(texts)}
    built = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=pre in WHOLE_WORDS))
    if pre in NORMALIZED:
        built.normalizer = NORMALIZED[pre]
    built.pre_tokenizer = pre_tokenizers.Sequence(SPLITTING[pre])
    built.decoder = decoders.ByteLevel()
    built.add_tokens(
        [
            tokenizers.AddedToken(text, special=kind != Kind.USER_DEFINED, normalized=False)
            for text, kind in zip(texts, kinds, strict=True)
            if kind in (Kind.CONTROL, Kind.USER_DEFINED, Kind.UNKNOWN)
        ]
    )
    ids = {name: own.get(f"{name}_token_id", len(texts)) for name in ("bos", "eos", "padding", "unknown")}
    special = {name: texts[i] for name, i in ids.items() if i < len(texts)}
    if "eos" not in special:
        raise InputError(f"{where}: eos_token_id {ids['eos']} is none of its {len(texts)} tokens")
    if own.get("add_bos_token", pre in BEGIN_FIRST) and "bos" in special:
        bos = special["bos"]
        built.post_processor = processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(
                    single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, vocabulary[bos])]
                ),
            ]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=built,
        chat_template=metadata.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        bos_token=special.get("bos"),
        eos_token=special["eos"],
        pad_token=special.get("padding"),
        unk_token=special.get("unknown"),
    )
    return with_end_ids(tokenizer, [own[name] for name in MORE_ENDS if name in own])


def named(texts: list[str], kinds: list[int]) -> tuple[list[str], list[int]]:
    """Tokens and kinds without the unused ones at the end, which only pad the embedding."""
    end = len(texts)
    while end and kinds[end - 1] == Kind.UNUSED:
        end -= 1
    return texts[:end], kinds[:end]
