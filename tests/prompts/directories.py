"""Tokenizer directories as they are published: byte-level, and sentencepiece as Llama's."""

import json

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

TURNS = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
CHAT = TURNS + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")  # ids 0 to 2


def write_json(path, **fields):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields), encoding="utf-8")


def byte_level(path, *, chat_template=CHAT, begins=False, split=None, eos=SPECIALS[0], far=None, **settings):
    """A byte-level BPE without merges: a token a byte, and one named far with the id `far`. `begins`: texts
    begin with <|endoftext|>."""
    vocab = {token: i for i, token in enumerate((*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())))}
    bpe = tokenizers.Tokenizer(models.BPE(vocab=vocab | ({} if far is None else {"far": far}), merges=[]))
    bpe.pre_tokenizer = split or pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens(list(SPECIALS))
    if begins:
        first = SPECIALS[0]
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A $B", special_tokens=[(first, 0)]
        )
    template = {} if chat_template is None else {"chat_template": chat_template}
    write_json(path / "tokenizer_config.json", eos_token=eos, **template, **settings)
    bpe.save(str(path / "tokenizer.json"))


def sentencepiece(path, pieces, merges=()):
    """Llama's kind: a blank before every text, blanks as `▁`, bytes for what has no piece, <s> at the
    beginning; `pieces` come after those."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    words += [piece for piece in pieces if piece not in words]
    bpe = tokenizers.Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, list(merges), unk_token="<unk>", byte_fallback=True)
    )
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.add_special_tokens(["<unk>", "<s>", "</s>"])
    bpe.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write_json(path / "tokenizer_config.json", tokenizer_class="LlamaTokenizerFast", **settings)
    bpe.save(str(path / "tokenizer.json"))
