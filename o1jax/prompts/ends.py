"""Where an answer ends: the end tokens of a tokenizer, all of them, on one record that the tokenizer carries.

A published model names them in three places that need not agree: the tokenizer's eos_token, eos_token_id of
generation_config.json (one id or several), and the token with which the chat template closes an assistant's
turn. Each of them ends a sample. Stops nothing itself: the engines do (engine/jobs.py).
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable

import jinja2
import transformers

from o1jax.records import InputError

Tokenizer = transformers.PreTrainedTokenizerFast
RECORD = "o1jax_end_ids"  # in the settings of a tokenizer, its init_kwargs
GENERATION = "generation_config.json"
# What a template fails with: its syntax, raise_exception and undefined names are TemplateErrors, the others
# come from what it does with values.
TEMPLATE_FAULTS = (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError)
ANSWER = "o1jaxanswer"  # no template changes one word of small letters


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens that end a sample; the first is the one that a trained answer ends with. Of a tokenizer that
    `with_end_ids` has not seen: its eos_token. Empty where it has none."""
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return tuple(tokenizer.init_kwargs.get(RECORD, own))


def with_end_ids(tokenizer: Tokenizer, given: Iterable[int]) -> Tokenizer:
    """The tokenizer, which from now on ends samples at the tokens `given`, its eos_token, and what its chat
    template ends an assistant's turn with; that one, if there is one, is what a trained answer ends with."""
    eos = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    known = dict.fromkeys((*eos, *sorted(given)))
    turn = turn_end(tokenizer, known.keys())
    tokenizer.init_kwargs[RECORD] = list(dict.fromkeys(known if turn is None else (turn, *known)))
    return tokenizer


def turn_end(tokenizer: Tokenizer, known: Iterable[int]) -> int | None:
    """The special token, or one of `known`, that the chat template writes after an assistant's message; None
    where it writes none, or there is no template that works."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    try:
        text = tokenizer.apply_chat_template(turns, tokenize=False)
    except TEMPLATE_FAULTS:
        return None
    before, _, after = text.rpartition(ANSWER)
    added = tokenizer.added_tokens_decoder.items()
    ends = {i for i, token in added if token.special} | set(known)
    heads, tails = (
        [i for i in tokenizer(part, add_special_tokens=False)["input_ids"] if i in ends]
        for part in (before, after)
    )
    # A template may open the next turn unasked: what also opened this one is no end, unless known as one.
    opens = tails[:1] == heads[-1:] and not set(tails[:1]) & set(known)
    return None if opens or not tails else tails[0]


def read_end_ids(directory: pathlib.Path, tokenizer: Tokenizer) -> list[int]:
    """The end tokens that a published directory names: those of generation_config.json, else of config.json;
    [] where neither does. InputError where a file says something else than ids."""
    for path in (directory / GENERATION, directory / "config.json"):
        if not path.exists():
            continue
        try:
            named = json.loads(path.read_text(encoding="utf-8"))["eos_token_id"]
        except KeyError:
            continue
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is corrupt: a JSON object is wanted, {error}") from error
        ids = named if isinstance(named, list) else [named]
        if ids == [None]:
            continue
        if not all(type(i) is int and i >= 0 for i in ids):
            raise InputError(f"{path}: eos_token_id is {named!r}, wanted a token's id or a list of them")
        if path.name == GENERATION:
            return ids
        # A config.json may hold its class's default, which in this vocabulary is a word.
        specials = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        return [i for i in ids if i in specials]
    return []


def write_end_ids(directory: pathlib.Path, tokenizer: Tokenizer) -> None:
    """Writes generation_config.json, from which `read_end_ids`, transformers and vLLM learn them."""
    ids = {name: i for name, i in token_ids(tokenizer).items() if i is not None}
    if ends := list(end_ids(tokenizer)):
        ids["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    (directory / GENERATION).write_text(json.dumps(ids, indent=1), encoding="utf-8")


def token_ids(tokenizer: Tokenizer) -> dict[str, int | None]:
    """bos_token_id, eos_token_id and pad_token_id, as config.json names them."""
    first = next(iter(end_ids(tokenizer)), None)
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": first if tokenizer.eos_token_id is None else tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
