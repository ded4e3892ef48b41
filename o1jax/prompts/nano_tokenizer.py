"""The nano policy's tokenizer: a small byte-level BPE with reserved step and score tokens.

Trained on whatever text it is given (the ladder's prompts and answers); any text round-trips.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers

from o1jax.records import InputError

PAD, EOS, USER, ASSISTANT = "<|endoftext|>", "<|im_end|>", "<|user|>", "<|assistant|>"
CONTROL_TOKENS = (PAD, EOS, USER, ASSISTANT)
TEXT_TOKENS = ("<Step_Begin>", "<Step_End>", " +", " -")  # part of the text, never stripped
_RESERVED = re.compile("|".join(map(re.escape, (*CONTROL_TOKENS, *TEXT_TOKENS))))
MAX_CONTEXT = 1024
SMALLEST_VOCAB = 256 + len(CONTROL_TOKENS) + len(TEXT_TOKENS)

# A step's header is three pieces around its number; each digit stands alone, with a space before it
# or without; words and runs of signs keep one space before them; line ends are pieces of their own.
_PIECES = r"### Step |: <Action [123]>\n| ?\d| ?\p{L}+| ?[^\s\p{L}\d]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Letters of a value (before a closing quote, or to the end of a line) stand alone as well, so that a small
# model can copy and change them one by one.
_SPELLED = r"\p{L}(?=\p{L}*(?:['\n]|$))|" + _PIECES

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}<|im_end|>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train(
    texts: Iterable[str], vocab_size: int, spelled: bool = False
) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` tokens, reserved ones included (ids 0 to 7).

    `spelled`: for a test-case generator, whose texts as values are one token a letter.
    """
    if vocab_size < SMALLEST_VOCAB:
        raise InputError(f"nano tokenizer: vocab_size {vocab_size}, wanted at least {SMALLEST_VOCAB}")
    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_SPELLED if spelled else _PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*CONTROL_TOKENS, *TEXT_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # The trainer does not cut reserved tokens out, as encoding will: pieces would be learned across them.
    pieces = (piece for text in texts for piece in _RESERVED.split(text))
    model.train_from_iterator(pieces, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=_with_text_tokens_as_text(model),
        pad_token=PAD,
        eos_token=EOS,
        chat_template=_CHAT_TEMPLATE,
        model_max_length=MAX_CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def _with_text_tokens_as_text(model: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The trainer marks all reserved tokens special, which would strip steps from decoded text."""
    state = json.loads(model.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] in CONTROL_TOKENS
    return tokenizers.Tokenizer.from_str(json.dumps(state))
