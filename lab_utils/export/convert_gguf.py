"""llama.cpp's `convert_hf_to_gguf.py`, with tokenizers it doesn't know told by their pattern.

Run as a script: `python convert_gguf.py LLAMA_CPP MODEL --outfile FILE --outtype TYPE`; the first
argument is llama.cpp's source folder, the rest goes to its script.

llama.cpp must know how a tokenizer splits text before merging. Its script tells a tokenizer by a
hash over a test text, and refuses one that it has never seen, such as one trained for a project.
What counts is the splitting pattern; when that is one which llama.cpp has under a name, the name is
right whatever the vocabulary.
"""

import json
import sys
from pathlib import Path

PRE_TOKENIZERS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "llama-bpe",
}
"""Splitting pattern in `tokenizer.json` -> llama.cpp's name for it."""


def pre_tokenizer(folder: Path) -> str | None:
    """llama.cpp's name for the way the tokenizer in `folder` splits text, None when it has none."""
    stated = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")).get("pre_tokenizer") or {}
    for part in stated.get("pretokenizers", [stated]):
        if part.get("type") == "Split":
            return PRE_TOKENIZERS.get(part["pattern"].get("Regex"))
    return None


def main(llama_cpp: Path, arguments: list[str]) -> None:
    """Convert as the script would, `arguments` being the script's own."""
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    from conversion.base import TextModel

    by_hash = TextModel.get_vocab_base_pre

    def by_hash_or_pattern(self, tokenizer) -> str:
        try:
            return by_hash(self, tokenizer)
        except NotImplementedError:
            if name := pre_tokenizer(Path(self.dir_model)):
                return name
            raise

    TextModel.get_vocab_base_pre = by_hash_or_pattern
    import convert_hf_to_gguf

    sys.argv = [str(llama_cpp / "convert_hf_to_gguf.py"), *arguments]
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
