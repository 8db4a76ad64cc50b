"""TRL's installed code, made callable on small tensors: bare trainers, tiny models, slices of a method."""

import ast
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import torch
from torch import nn

from lab_utils import align

IGNORE = -100
CASES = 120
VOCAB = 7


class Bigram(nn.Module):
    """A language model whose logits depend on the last token only; float64."""

    is_gradient_checkpointing = False

    def __init__(self, vocab: int, generator: torch.Generator):
        super().__init__()
        table = torch.randn(vocab, vocab, generator=generator, dtype=torch.float64)
        self.table = nn.Parameter(table * 1.5)

    def forward(self, input_ids, attention_mask=None, **_):
        return SimpleNamespace(logits=self.table[input_ids])


class Scorer(nn.Module):
    """A reward model: the sum of one number per token that isn't padding; float64."""

    def __init__(self, vocab: int, generator: torch.Generator):
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocab, generator=generator, dtype=torch.float64))

    def forward(self, input_ids, attention_mask, **_):
        return SimpleNamespace(logits=(self.table[input_ids] * attention_mask).sum(1, keepdim=True))


def bare(trainer_class: type, **attributes):
    """A trainer that was never initialized and has just the attributes that the called method reads."""
    trainer = object.__new__(trainer_class)
    vars(trainer).update(
        {"_metrics": {"train": defaultdict(list), "eval": defaultdict(list)}, "_total_train_tokens": 0},
        **attributes,
    )
    return trainer


def statements(function: Callable, first: str, last: str) -> Callable[[dict], dict]:
    """The statements of `function` from the one that starts with `first` to the one with `last`.

    They are cut out of the installed source as they stand and run on the names they are given;
    the result holds every name afterwards.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        texts = [ast.unparse(statement) for statement in body]
        starts = [i for i, text in enumerate(texts) if text.startswith(first)]
        ends = [i for i, text in enumerate(texts) if text.startswith(last)]
        if starts and ends:
            code = compile(ast.Module(body[starts[0] : ends[-1] + 1], []), inspect.getfile(function), "exec")

            def run(names: dict, code=code) -> dict:
                scope = {**function.__globals__, **names}
                exec(code, scope)
                return scope

            return run
    raise AssertionError(f"{function.__qualname__} has no statements from {first!r} to {last!r}")


def generators() -> Iterator[torch.Generator]:
    """One seeded generator per case."""
    for seed in range(CASES):
        yield torch.Generator().manual_seed(seed)


def integer(generator: torch.Generator, low: int, high: int) -> int:
    """A random integer, both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def number(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def prompts_and_completions(generator: torch.Generator, rows: int, vocab: int, width: int) -> dict:
    """A batch padded at the right, rows of unequal length: input_ids, attention_mask, completion_mask, labels."""
    ids = torch.randint(1, vocab, (rows, width), generator=generator)
    attention, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for row in range(rows):
        length = integer(generator, 2, width)
        prompt = integer(generator, 1, length - 1)
        attention[row, :length] = 1
        completion[row, prompt:length] = 1
    ids = ids * attention
    return {
        "input_ids": ids,
        "attention_mask": attention,
        "completion_mask": completion,
        "labels": ids.where(completion.bool(), IGNORE),
    }


def logps_of(model, batch, average=False):
    return align.sequence_logps(model(batch["input_ids"]).logits, batch["labels"], average=average)


def paired_batch(chosen, rejected):
    """The batch that ORPO's and CPO's trainers take; the rejected side may be narrower."""
    return {
        f"{side}_{key}": rows[key]
        for side, rows in (("chosen", chosen), ("rejected", rejected))
        for key in ("input_ids", "attention_mask", "labels")
    }


def mask_of(generator, rows, width, least=1):
    """1 up to a random length, 0 after it."""
    lengths = torch.tensor([integer(generator, least, width) for _ in range(rows)])
    return (torch.arange(width) < lengths.unsqueeze(1)).long()


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal to 1e-6, absolute and relative."""
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6, check_dtype=False)


def same_gradients(ours: torch.Tensor, theirs: torch.Tensor, *leaves: torch.Tensor) -> None:
    """Both losses, and their gradients at every leaf, are equal."""
    same(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves), strict=True
    ):
        same(mine, other)
