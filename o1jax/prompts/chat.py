"""The only place where chat messages and texts become token ids, and ids texts; a tokenizer's files are read
and written here too.

Knows no prompt: what is said to a model is in pseudocode.py and direct.py.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import transformers
from etils import epath

from o1jax.buckets import copy_files, is_bucket, on_disk
from o1jax.prompts.ends import RECORD, TEMPLATE_FAULTS, end_ids, read_end_ids, with_end_ids, write_end_ids
from o1jax.records import InputError

Tokenizer = transformers.PreTrainedTokenizerFast
OWN = "tokenizer.json"
SPM = "tokenizer.model"
FILES = (OWN, SPM, "vocab.json")  # one of them is there; else it would be empty
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")  # not fetched from a bucket with a tokenizer
DATE = "26 Jul 2024"  # what Llama 3's own template says where it cannot know the day
ANCHOR = "a"  # a token of every vocabulary that spells letters
Message = Mapping[str, str]  # role ("system", "user" or "assistant") and content
OWN_CLASS = '''"""Reads tokenizer.json as it stands, for loaders that run a model's own code."""

from transformers import PreTrainedTokenizerFast


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
'''


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer saved in a directory (or a model's name), with the end tokens that stand there; its ids
    are those of tokenizer.json where there is one. InputError if there is none."""
    if is_bucket(path):
        return _from_bucket(path)
    directory = pathlib.Path(path)
    if directory.is_dir() and not any((directory / name).exists() for name in FILES):
        raise InputError(f"no tokenizer at {str(path)!r}, wanted one of {', '.join(FILES)} there")
    if not any((directory / name).exists() for name in (OWN, "vocab.json")) and (directory / SPM).exists():
        if importlib.util.find_spec("sentencepiece") is None:
            raise InputError(
                f"tokenizer at {str(path)!r}: {SPM} alone is there, which needs the package sentencepiece; "
                f"pip install it, or give the directory with {OWN}"
            )
    # By the class that config files name, AutoTokenizer would put a model family's splitting in place of
    # the one that tokenizer.json says.
    own = transformers.PreTrainedTokenizerFast if (directory / OWN).exists() else transformers.AutoTokenizer
    try:
        tokenizer = own.from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the last: other content
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"no tokenizer at {str(path)!r}, wanted a directory with tokenizer.json: {reason}"
        ) from error
    return with_end_ids(tokenizer, read_end_ids(directory, tokenizer))


def _from_bucket(path: str) -> Tokenizer:
    here = on_disk(path, lambda file: file.suffix not in WEIGHTS and not file.is_dir())
    if here == path:
        raise InputError(f"no tokenizer at {path!r}, wanted one of {', '.join(FILES)} there")
    try:
        tokenizer = load_tokenizer(here)
    except InputError as error:
        raise InputError(str(error).replace(here, path)) from error
    tokenizer.name_or_path = path
    return tokenizer


def save_tokenizer(path: str | os.PathLike, tokenizer: Tokenizer, family: str = "") -> None:
    """Writes the tokenizer with its chat template and end tokens, so that load_tokenizer gives it back, and
    so do transformers 4 and 5; beside a config.json of the model `family` too."""
    if is_bucket(path):
        with tempfile.TemporaryDirectory() as here:
            save_tokenizer(here, tokenizer, family)
            copy_files(epath.Path(here), epath.Path(path))
        return
    directory = pathlib.Path(path)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory, save_jinja_files=False)
    write_end_ids(directory, tokenizer)
    if not (directory / OWN).exists():
        return
    file = directory / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings.pop(RECORD, None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # transformers 4 knows no other that reads it
    if isinstance(more := settings.get("extra_special_tokens"), list):
        settings["additional_special_tokens"] = more  # their name there, and read by both
        del settings["extra_special_tokens"]
    if family == "qwen2" and not splits_as_qwen(tokenizer):
        # transformers 5 reads every tokenizer of a qwen2 model with Qwen's splitting, whatever class is
        # named, but for one that has code of its own (which it then only runs if told to).
        settings["auto_map"] = {"AutoTokenizer": [None, "own_tokenizer.OwnTokenizer"]}
        (directory / "own_tokenizer.py").write_text(OWN_CLASS, encoding="utf-8")
    file.write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def splits_as_qwen(tokenizer: Tokenizer) -> bool:
    """Whether text is split before its tokens are looked up as in the class Qwen2Tokenizer."""
    theirs, ours = (
        json.loads(t.backend_tokenizer.to_str()) for t in (transformers.Qwen2Tokenizer(), tokenizer)
    )
    return all(theirs[part] == ours[part] for part in ("normalizer", "pre_tokenizer"))


def size(tokenizer: Tokenizer) -> int:
    """One above its highest id: with gaps in its ids, more than it has tokens."""
    return max(tokenizer.get_vocab().values()) + 1


def check_embedding(tokenizer: Tokenizer, rows: int, what: str) -> None:
    """InputError if `what`, a model with an embedding of so many rows, lacks some of the tokenizer's tokens,
    or if no token ends an answer."""
    if (highest := size(tokenizer) - 1) >= rows:
        raise InputError(
            f"{what}: its tokenizer has ids up to {highest} and its embedding {rows} rows (ids up to "
            f"{rows - 1}); give the tokenizer that it was trained with, or resize the embedding"
        )
    if not end_ids(tokenizer):
        raise InputError(
            f"{what}: no token ends an answer; set eos_token in tokenizer_config.json, or eos_token_id in "
            "generation_config.json"
        )


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
    """The token ids of a conversation, up to where the assistant's next message begins, as the chat template
    says and no more: on every day the same (Llama 3's template would name today), and where a template can
    think first (Qwen3's), without that. A template that refuses a system message has it at the beginning of
    the first user message. InputError where there is no template, or it fails."""
    named = tokenizer.chat_template
    if not named:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruct model's"
        )
    if isinstance(named, dict) and "default" not in named:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path!r} has the chat templates {', '.join(sorted(named))}, wanted "
            "one named default: name the one for a conversation so"
        )
    turns = [dict(message) for message in messages]
    try:
        text = _templated(tokenizer, turns)
    except TEMPLATE_FAULTS as fault:
        text = _without_system(tokenizer, turns, fault)
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _templated(tokenizer: Tokenizer, turns: Sequence[dict[str, str]]) -> str:
    return tokenizer.apply_chat_template(
        list(turns), tokenize=False, add_generation_prompt=True, date_string=DATE, enable_thinking=False
    )


def _without_system(tokenizer: Tokenizer, turns: Sequence[dict[str, str]], fault: Exception) -> str:
    """The text with the system message in the first user message; InputError about `fault` where there is
    none, or the template fails without it too."""
    if [turn["role"] for turn in turns[:2]] == ["system", "user"]:
        system, user, *others = turns
        folded = {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
        try:
            text = _templated(tokenizer, [folded, *others])
        except TEMPLATE_FAULTS as other:
            fault = other
        else:
            _say_folded(tokenizer.name_or_path)
            return text
    reason = " ".join(str(fault).split()) or type(fault).__name__
    raise InputError(
        f"tokenizer {tokenizer.name_or_path!r}: its chat template fails: {reason[:200]}; mend the "
        "template, or use a prompt that needs none (completion)"
    ) from fault


@functools.cache
def _say_folded(name: str) -> None:
    """Once a tokenizer, and not at every prompt."""
    logging.warning(
        "tokenizer %r: its chat template takes no system message; it is put before the first user's", name
    )


def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The ids of a text that continues another, nothing added: `decode` gives it back."""
    ids = _encoded(tokenizer, text)
    if not _has_blank_before(tokenizer, text, ids):
        return ids
    # A sentencepiece tokenizer puts a blank before the first word of a text. After a line's end it puts none.
    head = _encoded(tokenizer, "\n")
    whole = _encoded(tokenizer, "\n" + text)
    rest = whole[len(head) :]
    is_split = whole[: len(head)] == head and not _has_blank_before(tokenizer, text, rest)
    return rest if is_split else ids


def _encoded(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _has_blank_before(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> bool:
    decoded = decode(tokenizer, ids)
    return len(decoded) - len(decoded.lstrip(" ")) > len(text) - len(text.lstrip(" "))


def begin(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The ids of a text that nothing precedes, begun as the tokenizer's own encoding begins (with BOS, where
    it adds one), and left open at its end."""
    encoded = tokenizer(text, return_special_tokens_mask=True)
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    while ids and added[len(ids) - 1]:
        ids = ids[:-1]
    return tuple(ids)


def decode(tokenizer: Tokenizer, token_ids: Sequence[int], special: bool = True) -> str:
    """The exact text of token ids from anywhere in a text; special tokens are in it if `special`."""
    # A sentencepiece decoder takes one blank off the front of whatever it is given, which in the middle of a
    # text is an indent: so it is given a letter before.
    anchor = tokenizer.convert_tokens_to_ids(ANCHOR)
    known = anchor is not None and anchor != tokenizer.unk_token_id
    ids = [anchor, *token_ids] if known else list(token_ids)
    text = tokenizer.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False)
    return text.removeprefix(ANCHOR) if known else text
