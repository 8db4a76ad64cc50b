"""Tokenizer: byte-level BPE in Qwen's format in which every common character is one token.

The merges are written by hand, not learned: lead byte + second byte, then + third byte.
So Chinese text has one token a character (verse counts characters), any other text
falls back to bytes, and nothing is ever unknown.
"""

import json
import re
from collections import Counter
from pathlib import Path

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TOOLS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
ROLES = ["system", "user", "assistant"]
PUNCTUATION = "，。？！；：、《》“”‘’（）【】…—·"
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
_SPLIT = (  # Qwen's pre-tokenizer pattern
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def byte_symbols() -> dict[int, str]:
    """GPT-2's printable symbol for each of the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {byte: chr(byte) for byte in printable}
    for byte in range(256):
        symbols.setdefault(byte, chr(256 + len(symbols) - len(printable)))
    return symbols


def common_characters(texts: list[str], least: int) -> list[str]:
    """GB 2312's 3,755 most used characters, and those that occur `least` times in `texts`."""
    level_one = [
        bytes([high, low]).decode("gb2312")
        for high in range(0xB0, 0xD8)
        for low in range(0xA1, 0xFF if high < 0xD7 else 0xFA)
    ]
    counts = Counter("".join(texts))
    frequent = [c for c, n in counts.most_common() if n >= least and re.match(r"[\u4e00-\u9fff]", c)]
    return list(dict.fromkeys([*PUNCTUATION, *level_one, *frequent]))


def merges_for(characters: list[str]) -> list[tuple[str, str]]:
    """Merge rules that make each of `characters`, and each role name, one token."""
    symbols = byte_symbols()
    prefixes: dict[tuple[str, str], None] = {}
    wholes: dict[tuple[str, str], None] = {}
    words: dict[tuple[str, str], None] = {}
    for char in characters:
        first, *rest = (symbols[b] for b in char.encode())
        for i, symbol in enumerate(rest, 1):
            (wholes if i == len(rest) else prefixes)[first, symbol] = None
            first += symbol
    for word in ROLES:
        for i in range(1, len(word)):
            words[word[:i], word[i]] = None
    return [*prefixes, *wholes, *words]


def build(texts: list[str], folder: Path, least: int = 30) -> int:
    """Write `tokenizer.json` and `tokenizer_config.json` into `folder`; the vocabulary size.

    Beside GB 2312's common characters, those that occur `least` times in `texts` get a token.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = merges_for(common_characters(texts, least))
    vocab = {symbol: i for i, symbol in enumerate(byte_symbols().values())}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TOOLS])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1))
    return tokenizer.get_vocab_size()
