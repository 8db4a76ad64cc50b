"""Three ways besides quantization to make a model smaller, small enough to measure in a lab.

Pruning: single weights by magnitude (Han et al. 2015, arXiv 1506.02626), and whole neurons of the
feed-forward layers. Low-rank factorisation of linear layers by truncated SVD. Knowledge distillation
into a model with fewer layers (Hinton et al. 2015, arXiv 1503.02531; DistilBERT, arXiv 1910.01108).
Every function returns a new model and leaves the one it was given as it is.
"""

import copy
import math
import time
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab_utils import lowrank
from lab_utils.data.batches import Example, collate
from lab_utils.data.loss_mask import IGNORE, make_labels
from lab_utils.evaluation.loss import held_out_loss, perplexity
from lab_utils.training import loop

INDEX_BYTES = 4
"""Bytes of one index of a sparse matrix (int32)."""


def poem_examples(tokenizer, rows: Sequence[dict]) -> list[Example]:
    """Rows of `verse_sft` as the base model met verse in pretraining: `五言绝句《秋夜》`, a line break, the poem.

    Supervised are the poem's tokens and the end token. On the instructions of these rows the base would
    be judged by what it never learned. Raises ValueError for no rows.
    """
    if not rows:
        raise ValueError("没有数据行 (rows)：请给出 verse_sft 的行。")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    examples = []
    for row in rows:
        heading = tokenizer(f"{row['form']}《{row['theme']}》\n", add_special_tokens=False).input_ids
        poem = tokenizer(row["messages"][-1]["content"], add_special_tokens=False).input_ids
        examples.append(make_labels(heading, poem, end, len(heading) + len(poem) + 1, end))
    return examples


# Pruning ------------------------------------------------------------------------------------------


def prune_magnitude(model, share: float):
    """A copy of `model` whose linear layers each have the `share` of weights nearest to zero set to zero.

    Unstructured: the matrices keep their shapes, so memory and time stay what they were unless a sparse
    format and sparse kernels are used. A head tied to the embedding is left alone.
    Raises ValueError for a share outside [0, 1).
    """
    _check_share(share)
    pruned = copy.deepcopy(model)
    with torch.no_grad():
        for weight in lowrank.linear_weights(pruned).values():
            smallest = weight.abs().flatten().argsort()[: round(share * weight.numel())]
            weight.view(-1)[smallest] = 0.0
    return pruned


def prune_neurons(model, share: float):
    """A copy of `model` without the `share` of neurons that matter least in each feed-forward layer.

    Neuron j of a SwiGLU layer is row j of `gate_proj` and `up_proj` and column j of `down_proj`; it goes by
    the product of their three norms. Structured: the matrices really become smaller, and
    `config.intermediate_size` with them, so the copy can be saved and loaded like any model.
    Raises ValueError for a share outside [0, 1) or one that leaves no neuron, and for a model without such layers.
    """
    _check_share(share)
    smaller = copy.deepcopy(model)
    layers = [part for part in smaller.modules() if hasattr(part, "gate_proj") and hasattr(part, "down_proj")]
    if not layers:
        raise ValueError("模型里没有 gate_proj/up_proj/down_proj 这样的前馈层 (SwiGLU)，不知道剪哪里。")
    for layer in layers:
        gate, up, down = layer.gate_proj, layer.up_proj, layer.down_proj
        importance = gate.weight.norm(dim=1) * up.weight.norm(dim=1) * down.weight.norm(dim=0)
        count = len(importance) - round(share * len(importance))
        if count < 1:
            raise ValueError(f"share={share} 会把 {len(importance)} 个神经元 (neurons) 全部剪掉，请调小。")
        kept = importance.topk(count).indices.sort().values
        layer.gate_proj, layer.up_proj = _rows(gate, kept), _rows(up, kept)
        layer.down_proj = _columns(down, kept)
        layer.intermediate_size = count
    smaller.config.intermediate_size = count
    return smaller


def _rows(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    bias = None if linear.bias is None else linear.bias[kept]
    return _linear(linear.weight[kept], bias)


def _columns(linear: nn.Linear, kept: Tensor) -> nn.Linear:
    return _linear(linear.weight[:, kept], linear.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """An `nn.Linear` that holds a copy of `weight` (out, in) and `bias` (out,)."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, weight.device, weight.dtype)
    with torch.no_grad():
        made.weight.copy_(weight)
        if bias is not None:
            made.bias.copy_(bias)
    return made


# Low rank -----------------------------------------------------------------------------------------


def factorize(model, rank_share: float):
    """A copy of `model` in which each linear layer is two of rank r = `rank_share` · min(out, in), rounded.

    W (out, in) becomes W_left (out, r) · W_right (r, in), the nearest of that rank. That is r·(out + in)
    numbers instead of out·in: smaller only when r < out·in / (out + in). A head tied to the embedding is
    left alone. Raises ValueError for a share outside (0, 1] or one that gives a layer rank 0.
    """
    if not 0 < rank_share <= 1:
        raise ValueError(f"秩的份额 (rank_share) 应大于 0、不超过 1（满秩），却是 {rank_share}。")
    factored = copy.deepcopy(model)
    for name in lowrank.linear_weights(factored):
        owner_name, _, child = name.removesuffix(".weight").rpartition(".")
        owner = factored.get_submodule(owner_name)
        linear = getattr(owner, child)
        rank = round(rank_share * min(linear.weight.shape))
        if rank < 1:
            raise ValueError(
                f"{name} 的形状是 {tuple(linear.weight.shape)}，rank_share={rank_share} 让它的秩 (rank) 成了 0。"
            )
        left, right = lowrank.truncate(linear.weight, rank)
        dtype = linear.weight.dtype
        setattr(
            owner, child, nn.Sequential(_linear(right.to(dtype), None), _linear(left.to(dtype), linear.bias))
        )
    return factored


# Distillation -------------------------------------------------------------------------------------


def student_of(teacher, layers: Sequence[int]):
    """A model of the teacher's kind that starts as a copy of those of its `layers` (from 0), with its
    embedding and head. Raises ValueError for no layers, one twice, out of order, or that isn't there."""
    depth = teacher.config.num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise ValueError(
            f"layers 应是 0 到 {depth - 1} 之间从小到大、不重复的层号，如 [0, {depth - 1}]，却是 {list(layers)}。"
        )
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]
    student = type(teacher)(config).to(teacher.device, teacher.dtype)
    weights = {}
    for name, value in teacher.state_dict().items():
        before, found, after = name.partition("model.layers.")
        number, _, rest = after.partition(".")
        if not found:
            weights[name] = value
        elif int(number) in layers:
            weights[f"{before}{found}{list(layers).index(int(number))}.{rest}"] = value
    student.load_state_dict(weights)
    return student.eval()


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    temperature: float = 2.0,
    hard_weight: float = 0.0,
) -> Tensor:
    """T²·KL(teacher ‖ student), both softened by T; scalar, nats per token (Hinton et al. 2015, section 2).

    logits: (n, vocab). labels: (n,), the right token at each place; places with -100 are left out.
    T² makes up for the gradients of softened logits, which shrink as 1/T². With `hard_weight` w in [0, 1]
    the loss is (1 − w)·T²·KL + w·cross-entropy with the labels.

    Raises ValueError for shapes that differ, T not positive, w outside [0, 1] or w > 0 without labels.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"学生和教师的 logits 形状不同 (shape)：{tuple(student_logits.shape)} 与 {tuple(teacher_logits.shape)}。"
            "两者要用同一个分词器，看同一批数据。"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"温度 (temperature) 应是正数，却是 {temperature}。")
    if not 0 <= hard_weight <= 1 or (hard_weight and labels is None):
        raise ValueError(f"hard_weight 应在 0 与 1 之间，大于 0 时要给出 labels，却是 {hard_weight}。")
    if labels is not None:
        learned = labels != IGNORE
        student_logits, teacher_logits, labels = (
            student_logits[learned],
            teacher_logits[learned],
            labels[learned],
        )
    soft = F.kl_div(
        F.log_softmax(student_logits / temperature, dim=-1),
        F.log_softmax(teacher_logits / temperature, dim=-1),
        log_target=True,
        reduction="batchmean",
    )
    loss = (1 - hard_weight) * temperature**2 * soft
    return loss + hard_weight * F.cross_entropy(student_logits, labels) if hard_weight else loss


def distill(
    teacher,
    student,
    examples: list[Example],
    steps: int,
    learning_rate: float = 2e-3,
    batch_size: int = 16,
    temperature: float = 2.0,
    hard_weight: float = 0.0,
    seed: int = 0,
    progress: bool = True,
):
    """A copy of `student` trained to give the teacher's probabilities on the supervised tokens of `examples`.

    With the same seed it sees the same batches as `training.loop.train`, which is the comparison: the right
    tokens alone. Raises what `training.loop.train` and `distillation_loss` raise.
    """
    student = copy.deepcopy(student)

    def loss_of(student, batch):
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        with torch.no_grad():
            wanted = teacher(**inputs).logits[:, :-1].flatten(0, 1)
        given = student(**inputs).logits[:, :-1].flatten(0, 1)
        return distillation_loss(given, wanted, batch["labels"][:, 1:].flatten(), temperature, hard_weight)

    loop.train(student, examples, steps, learning_rate, batch_size, seed, progress, loss_of)
    return student


# What it brought ----------------------------------------------------------------------------------


def compare(models: dict, examples: list[Example], repeats: int = 5):
    """What each model costs and how well it predicts `examples`: a DataFrame, one row a model.

    Columns: `parameters`; `nonzero` of them; `mib`, stored as they are; `sparse_mib`, matrices as CSR with
    32-bit indices where that is smaller; `loss`, nats per token, and `perplexity` on the supervised tokens;
    `time`, the processor time of one forward pass relative to the first model. The passes take turns, and
    each model's fastest of `repeats` counts, so that what else the machine does falls on all alike.
    """
    import pandas as pd

    batch = collate(examples[:32], pad_id=0)
    fastest = dict.fromkeys(models, math.inf)
    with torch.no_grad():
        for _ in range(repeats):
            for name, model in models.items():
                began = time.process_time()
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                fastest[name] = min(fastest[name], time.process_time() - began)
    first = next(iter(fastest.values()))
    rows = []
    for name, model in models.items():
        loss = held_out_loss(model, examples)
        row = {"model": name, **weight_counts(model), "loss": loss, "perplexity": perplexity(loss)}
        rows.append({**row, "time": fastest[name] / first})
    return pd.DataFrame(rows)


def weight_counts(model) -> dict[str, float]:
    """`parameters`, `nonzero`, `mib` and `sparse_mib` of a model, tied weights once; see `compare`."""
    weights = list(model.parameters())
    dense = sum(weight.numel() * weight.element_size() for weight in weights)
    sparse = sum(min(weight.numel() * weight.element_size(), _csr_bytes(weight)) for weight in weights)
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "nonzero": sum(int(weight.count_nonzero()) for weight in weights),
        "mib": dense / 2**20,
        "sparse_mib": sparse / 2**20,
    }


def _csr_bytes(weight: Tensor) -> int:
    """Bytes as a compressed-row matrix: a value and a column for each nonzero, a pointer for each row."""
    return (
        int(weight.count_nonzero()) * (weight.element_size() + INDEX_BYTES) + (len(weight) + 1) * INDEX_BYTES
    )


def _check_share(share: float) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"剪掉的份额 (share) 应在 0 与 1 之间（可以是 0，不能是 1），如 0.5，却是 {share}。")
