"""From checkpoint to a model that others can run, and the proof that it is still the same model.

>>> from lab_utils import export
>>> export.classify(folder)                       # what is this folder?
>>> merged = export.merge(base, adapter, folder)  # into full precision
>>> export.parity((base, adapter), merged, prompts)
>>> export.preflight(merged), export.push(merged, "owner/name")

- `merge`, `merge_command`, `merged_into_4bit`: an adapter into its base;
- `to_gguf`, `llama_cpp`, `modelfile`: one file for llama.cpp and Ollama;
- `write_card`, `preflight`, `push`, `Obstacle`, `Push`: publishing on ModelScope;
- `parity`: the gate; with it, from `artifacts` and `evaluation`, what it takes and gives.
"""

from lab_utils.artifacts import Artifact, classify, model_folder, resolve
from lab_utils.evaluation.candidate import Candidate, Local, Served, local, served
from lab_utils.evaluation.parity import TOLERANCE, Difference, Parity, first_difference
from lab_utils.export.card import write_card
from lab_utils.export.gguf_parity import parity
from lab_utils.export.llama_cpp import llama_cpp, to_gguf
from lab_utils.export.merge import merge, merge_command, merged_into_4bit
from lab_utils.export.ollama import modelfile
from lab_utils.export.publish import Obstacle, Push, preflight, push

__all__ = [
    "TOLERANCE",
    "Artifact",
    "Candidate",
    "Difference",
    "Local",
    "Obstacle",
    "Parity",
    "Push",
    "Served",
    "classify",
    "first_difference",
    "llama_cpp",
    "local",
    "merge",
    "merge_command",
    "merged_into_4bit",
    "model_folder",
    "modelfile",
    "parity",
    "preflight",
    "push",
    "resolve",
    "served",
    "to_gguf",
    "write_card",
]
