"""Tokenizers from and to a directory, and the only place where chat messages become token ids.

Knows no prompt: what is said to a model is in pseudocode.py and direct.py.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping, Sequence

import transformers

from o1jax.records import InputError

Tokenizer = transformers.PreTrainedTokenizerFast
FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")  # one of them is there; else it would be empty
DATE = "26 Jul 2024"  # what Llama 3's own template says where it cannot know the day
Message = Mapping[str, str]  # role ("system", "user" or "assistant") and content


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer saved in a directory (or a model's name); InputError if there is none."""
    directory = pathlib.Path(path)
    if directory.is_dir() and not any((directory / name).exists() for name in FILES):
        raise InputError(f"no tokenizer at {str(path)!r}, wanted one of {', '.join(FILES)} there")
    try:
        return _class_of(path).from_pretrained(path)
    except (OSError, ValueError, KeyError, TypeError) as error:  # the last two: other content
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"no tokenizer at {str(path)!r}, wanted a directory with tokenizer.json: {reason}"
        ) from error


def _class_of(path: str) -> type:
    """AutoTokenizer would put the model family's own splitting in place of a tokenizer.json that says
    how it splits, where a config.json stands beside it."""
    config = pathlib.Path(path) / "tokenizer_config.json"
    if (
        config.exists()
        and json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") == "TokenizersBackend"
    ):
        return transformers.PreTrainedTokenizerFast
    return transformers.AutoTokenizer


def save_tokenizer(path: str, tokenizer: Tokenizer) -> None:
    """Writes the tokenizer with its chat template, so that load_tokenizer gives it back."""
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(path)


def render(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[int, ...]:
    """The token ids of a conversation, up to where the assistant's next message begins: on every day the same
    (Llama 3's template would name today), and where a template can think first (Qwen3's), without that."""
    if not tokenizer.chat_template:
        raise InputError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruct model's"
        )
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages],
        tokenize=False,
        add_generation_prompt=True,
        date_string=DATE,
        enable_thinking=False,
    )
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """The ids of plain text, nothing added."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokenizer: Tokenizer, token_ids: Sequence[int]) -> str:
    """The exact text of token ids, special tokens included."""
    return tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
