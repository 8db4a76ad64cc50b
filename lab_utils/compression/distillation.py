"""Knowledge distillation into a model with fewer layers (Hinton et al. 2015, arXiv 1503.02531; DistilBERT, arXiv 1910.01108)."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lab_utils.data.batches import Example
from lab_utils.data.loss_mask import IGNORE, make_labels
from lab_utils.errors import InvalidValue
from lab_utils.training import loop


def poem_examples(tokenizer, rows: Sequence[dict]) -> list[Example]:
    """Rows of `verse_sft` as the base model met verse in pretraining: `五言绝句《秋夜》`, a line break, the poem.

    Supervised are the poem's tokens and the end token. On the instructions of these rows the base would
    be judged by what it never learned. Raises ValueError for no rows.
    """
    if not rows:
        raise InvalidValue("没有数据行 (rows)", "请给出 verse_sft 的行")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    examples = []
    for row in rows:
        heading = tokenizer(f"{row['form']}《{row['theme']}》\n", add_special_tokens=False).input_ids
        poem = tokenizer(row["messages"][-1]["content"], add_special_tokens=False).input_ids
        examples.append(make_labels(heading, poem, end, len(heading) + len(poem) + 1, end))
    return examples


def student_of(teacher, layers: Sequence[int]):
    """A model of the teacher's kind that starts as a copy of those of its `layers` (from 0), with its
    embedding and head. Raises ValueError for no layers, one twice, out of order, or that isn't there."""
    depth = teacher.config.num_hidden_layers
    if not layers or list(layers) != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < depth:
        raise InvalidValue(
            f"层号 (layers) 应是 0 到 {depth - 1} 之间从小到大、不重复的数，却是 {list(layers)}",
            f"例如 [0, {depth - 1}]",
        )
    config = copy.deepcopy(teacher.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]
    student = type(teacher)(config).to(teacher.device, teacher.dtype)
    weights = {}
    for name, value in teacher.state_dict().items():
        before, prefix, after = name.partition("model.layers.")
        number, _, rest = after.partition(".")
        if not prefix:
            weights[name] = value
        elif int(number) in layers:
            weights[f"{before}{prefix}{list(layers).index(int(number))}.{rest}"] = value
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
        raise InvalidValue(
            f"学生和教师的 logits 形状不同 (shape)：{tuple(student_logits.shape)} 与 {tuple(teacher_logits.shape)}",
            "两者要用同一个分词器，看同一批数据。",
        )
    if not 0 < temperature < math.inf:
        raise InvalidValue(f"温度 (temperature) 应是正数，却是 {temperature}")
    if not 0 <= hard_weight <= 1 or (hard_weight and labels is None):
        raise InvalidValue(
            f"硬标签的份额 (hard_weight) 应在 0 与 1 之间，大于 0 时要给出 labels，却是 {hard_weight}"
        )
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
