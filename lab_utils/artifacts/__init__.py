"""What lies in a folder, and which folder is meant: the one place that answers both.

- `classify`: adapter, run, checkpoint, merged model, base, GGUF, incomplete or unknown;
- `model_folder`: of a model's name, a model folder or a run, the folder of the model;
- `resolve`: of any folder, the one meant: of a run its last or best checkpoint;
- `find_checkpoint`: the same for a folder that must be a run's (`checkpoint`);
- `run_log`: what a training wrote while it ran, as rows or as a table.
"""

from lab_utils.artifacts.checkpoint import find_checkpoint
from lab_utils.artifacts.folder_kinds import WHOLE, Artifact, classify, model_folder, resolve

__all__ = ["WHOLE", "Artifact", "classify", "find_checkpoint", "model_folder", "resolve"]
