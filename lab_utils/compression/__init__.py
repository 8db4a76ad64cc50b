"""Three ways besides quantization to make a model smaller, small enough to measure in a lab.

    pruning        single weights by magnitude; whole neurons
    factorization  linear layers of low rank
    distillation   a student of fewer layers learns the teacher's probabilities
    comparison     what each costs and how well it predicts

Every function returns a new model and leaves the one it was given as it is.
"""

from lab_utils.compression.comparison import compare, weight_counts
from lab_utils.compression.distillation import distill, distillation_loss, poem_examples, student_of
from lab_utils.compression.factorization import factorize
from lab_utils.compression.pruning import prune_magnitude, prune_neurons

__all__ = [
    "compare",
    "distill",
    "distillation_loss",
    "factorize",
    "poem_examples",
    "prune_magnitude",
    "prune_neurons",
    "student_of",
    "weight_counts",
]
