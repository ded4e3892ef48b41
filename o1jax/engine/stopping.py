"""Where a sample ends: stop tokens, and strings that a token completes.

Strings are matched on the bytes of the tokens, so that a stop that is split over tokens, or begins
inside one, is found without decoding text. Knows nothing of slots.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")  # how sentencepiece vocabularies write a raw byte


def token_bytes(tokenizer: PreTrainedTokenizerBase, vocab_size: int) -> list[bytes]:
    """The bytes that each token adds to the text, by id: byte-level BPE or sentencepiece.

    A model may have more tokens than its tokenizer (padded vocabularies): those add nothing.
    """
    tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    characters = byte_level_characters()
    is_byte_level = all(
        len(token) > 0 and set(token) <= characters.keys() for token in tokens if token not in added
    )
    table = []
    for token in tokens:
        if token in added:
            table.append(token.encode())
        elif is_byte_level:
            table.append(bytes(characters[character] for character in token))
        elif match := BYTE_TOKEN.fullmatch(token):
            table.append(bytes([int(match[1], 16)]))
        else:
            table.append(token.replace("▁", " ").encode())
    return table + [b""] * (vocab_size - len(table))


def byte_level_characters() -> dict[str, int]:
    """GPT-2's map from printable characters to bytes."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }
    assert characters.keys() == set(ByteLevel.alphabet())
    return characters


@dataclasses.dataclass(frozen=True)
class Stop:
    """What ends a sample: token ids (the tokenizer's own end is `eos`, -1: none) and byte strings."""

    eos: int
    ids: frozenset[int]
    strings: tuple[bytes, ...]

    def find(self, tail: bytes, ids: Sequence[int], table: Sequence[bytes]) -> int | None:
        """The index of the first of `ids` that ends the sample; `tail` is the text before them."""
        if self.strings and any(s in tail + b"".join(table[i] for i in ids) for s in self.strings):
            return self._find_one_by_one(tail, ids, table)
        return next((index for index, i in enumerate(ids) if i == self.eos or i in self.ids), None)

    def _find_one_by_one(self, text: bytes, ids: Sequence[int], table: Sequence[bytes]) -> int:
        for index, i in enumerate(ids):
            text += table[i]
            if i == self.eos or i in self.ids or any(s in text for s in self.strings):
                return index
        raise AssertionError("a stop string was in the whole text and in none of its beginnings")

    def tail(self, tail: bytes, ids: Sequence[int], table: Sequence[bytes]) -> bytes:
        """The last bytes of the text in which a stop string may have begun."""
        longest = max((len(s) for s in self.strings), default=1) - 1
        if longest == 0:
            return b""
        return (tail + b"".join(table[i] for i in ids))[-longest:]

    def device_ids(self, table: Sequence[bytes], room: int) -> tuple[int, ...]:
        """Up to `room` ids at which decoding may stop on the device: those, eos first, that end the
        sample whatever came before. An optimisation: `find` decides."""
        whole = [i for i, text in enumerate(table) if any(s in text for s in self.strings)]
        known = [i for i in (self.eos, *sorted(self.ids)) if i >= 0]
        return tuple(dict.fromkeys(known + whole))[:room]
