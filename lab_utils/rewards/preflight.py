"""Before a GRPO run: can these rewards and settings teach anything? Asked of one probe batch.

GRPO learns from differences inside a group: the advantage of a completion is its reward minus the
mean of its group, over their standard deviation (Shao et al. 2024, DeepSeekMath, section 4.1).
Where all rewards of a group are equal every advantage is 0, and so is the gradient. Training goes on
all the same and prints a loss of 0.0, which looks like success.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

from lab_utils.errors import InvalidValue, LabError

ZERO = 1e-8  # a standard deviation below this is none, as in TRL


class PreflightError(LabError, ValueError):
    """A setting that can't learn. `problems`: all that were found, each with what to change."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        super().__init__(
            "\n".join([f"这样训练学不到东西，有 {len(problems)} 处要改：", *(f"- {p}" for p in problems)])
        )


@dataclass(frozen=True)
class RewardFigures:
    """One reward on the probe batch: mean and standard deviation (n - 1, as TRL logs it) over all
    completions, and the share of groups in which all completions got the same."""

    name: str
    mean: float
    std: float
    zero_std_groups: float

    def __str__(self) -> str:
        return (
            f"{self.name}：平均 {self.mean:.3f}，标准差（std）{self.std:.3f}，"
            f"{self.zero_std_groups:.0%} 的组里全都一样"
        )


@dataclass(frozen=True)
class PreflightReport:
    """A probe batch that can teach something: figures of each reward and of their weighted sum."""

    groups: int
    num_generations: int
    rewards: tuple[RewardFigures, ...]
    total: RewardFigures

    @property
    def silent(self) -> tuple[str, ...]:
        """Names of the rewards that tell no completions apart in any group: they teach nothing yet."""
        return tuple(figures.name for figures in self.rewards if figures.zero_std_groups == 1)

    def __str__(self) -> str:
        lines = [f"可以开始训练：探针（probe）{self.groups} 组，每组 {self.num_generations} 个回答。"]
        lines += [f"- {figures}" for figures in (*self.rewards, self.total)]
        if self.silent:
            lines.append(
                f"注意：{'、'.join(self.silent)} 在每一组里都一样，眼下不起作用，要靠别的奖励先带一程。"
            )
        return "\n".join(lines)


def preflight(
    reward_functions: Sequence[Callable],
    groups: Sequence[Sequence],
    rows: Sequence[dict],
    *,
    num_generations: int,
    generation_batch_size: int,
    temperature: float,
    reward_weights: Sequence[float] | None = None,
) -> PreflightReport:
    """Refuse what can't learn, before any training step.

    `groups`: sampled completions, one list of `num_generations` per prompt, drawn at the
    `temperature` of the training. `rows`: the data set's row of each prompt; its fields go to the
    reward functions the way TRL passes them, `prompt` as `prompts`. `generation_batch_size`: completions
    drawn between two updates, per_device_train_batch_size x gradient_accumulation_steps x devices
    unless it was set. `reward_weights`: TRL's, all 1 by default.

    Raises PreflightError with all problems, each saying what to change: num_generations below 2 or not
    a divisor of the batch, temperature 0, a reward function that fails or doesn't return one finite
    number per completion in a list, the weighted sum being equal within every group. Raises InvalidValue
    when the probe itself is malformed.
    """
    functions = list(reward_functions)
    weights = [1.0] * len(functions) if reward_weights is None else list(reward_weights)
    _check_probe(functions, groups, rows, num_generations, weights)
    problems = _setting_problems(num_generations, generation_batch_size, temperature)
    names, scores = [_name(function) for function in functions], []
    for name, function in zip(names, functions, strict=True):
        values, problem = _scores(name, function, groups, rows)
        if problem:
            problems.append(problem)
        else:
            scores.append(np.array(values).reshape(len(groups), -1))
    if len(scores) < len(functions):
        raise PreflightError(problems)
    total = np.tensordot(weights, scores, axes=1)  # (groups, num_generations)
    if num_generations > 1 and _zero_std(total) == 1:
        problems.append(_no_difference(names, scores, groups))
    if problems:
        raise PreflightError(problems)
    figures = tuple(_figures(name, values) for name, values in zip(names, scores, strict=True))
    return PreflightReport(len(groups), num_generations, figures, _figures("加权和（total）", total))


def _check_probe(
    functions: Sequence[Callable],
    groups: Sequence[Sequence],
    rows: Sequence[dict],
    num_generations: int,
    weights: Sequence[float],
) -> None:
    """Raise InvalidValue unless the probe is whole: a row and a group per prompt, a weight per function."""
    if not functions or not groups:
        raise InvalidValue(
            "没有奖励函数 (reward function) 或探针回答 (probe completions)", "两样各至少要有一个"
        )
    if len(rows) != len(groups):
        raise InvalidValue(
            f"rows 有 {len(rows)} 行，groups 有 {len(groups)} 组，应一一对应", "每个提示给一行、一组"
        )
    if len(weights) != len(functions):
        raise InvalidValue(
            f"reward_weights 有 {len(weights)} 个，奖励函数有 {len(functions)} 个，应一样多",
            "每个奖励函数给一个权重，或都不给",
        )
    for i, group in enumerate(groups, 1):
        if len(group) != num_generations:
            raise InvalidValue(
                f"第 {i} 组有 {len(group)} 个回答，num_generations={num_generations}",
                "探针每组的回答数要和训练时一样",
            )
    if any(set(row) != set(rows[0]) for row in rows):
        raise InvalidValue("rows 各行的字段不一样", "奖励函数按列 (column) 取值，每一行都要有同样的字段")


def _setting_problems(num_generations: int, generation_batch_size: int, temperature: float) -> list[str]:
    problems = []
    if num_generations < 2:
        problems.append(
            f"num_generations={num_generations}：组内没有可比的回答，优势 (advantage) 总是 0。改成 2 以上，例如 8。"
        )
    elif generation_batch_size < 1 or generation_batch_size % num_generations:
        fits = [n for n in range(2, generation_batch_size + 1) if generation_batch_size % n == 0]
        more = math.ceil(max(generation_batch_size, 1) / num_generations) * num_generations
        smaller = f"，或把 num_generations 改成 {'、'.join(map(str, fits))} 之一" if fits else ""
        problems.append(
            f"num_generations={num_generations} 不能整除一批回答数 generation_batch_size={generation_batch_size}，"
            f"有的组会不完整。把一批改成 {more}（每卡批大小 × 梯度累积步数 × 卡数）{smaller}。"
        )
    if not temperature > 0:
        problems.append(
            f"temperature={temperature}：贪心解码 (greedy)，一组里的回答全都一样，奖励没有差别。改成 0.7 到 1.0。"
        )
    return problems


def _scores(name: str, function: Callable, groups, rows) -> tuple[list[float], str]:
    """The function's rewards of all completions, in order, and "", or what is wrong with them."""
    repeated = [row for row, group in zip(rows, groups, strict=True) for _ in group]
    completions = [completion for group in groups for completion in group]
    columns = {key: [row[key] for row in repeated] for key in repeated[0]}
    prompts = columns.pop("prompt", None)
    try:
        values = function(prompts=prompts, completions=completions, trainer_state=None, **columns)
    except Exception as error:
        return [], f"{name} 出错：{type(error).__name__}: {error}"
    return values, _value_problem(name, values, len(completions))


def _value_problem(name: str, values, count: int) -> str:
    if not isinstance(values, list):
        return f"{name} 返回的是 {type(values).__name__}，不是数的列表 (list of floats)。每个回答返回一个数，放在列表里。"
    if len(values) != count:
        return f"{name} 返回了 {len(values)} 个奖励，回答有 {count} 个。每个回答要有一个，顺序相同，一个也不能跳过。"
    for i, value in enumerate(values, 1):
        if not isinstance(value, Real):
            return f"{name} 给第 {i} 个回答的奖励是 {value!r}，不是数。每条路径都要 return 一个数，没有答案时返回 0.0。"
        if not math.isfinite(value):
            return f"{name} 给第 {i} 个回答的奖励是 {value} (NaN 或 inf)，会让学习悄悄停下。检查除以 0 的地方，返回 0.0。"
    return ""


def _no_difference(names: list[str], scores: list[np.ndarray], groups) -> str:
    """Why nothing differs within any group, with the values, and what to change."""
    if all(len(set(map(repr, group))) == 1 for group in groups):
        return "每一组里的回答一字不差，奖励必然一样。把 temperature 调高到 0.7 至 1.0，检查采样 (do_sample) 是否打开。"
    ranges = "；".join(f"{name} = {_range(values)}" for name, values in zip(names, scores, strict=True))
    return (
        f"每一组里的奖励都没有差别 (reward std = 0)，优势全是 0：{ranges}。"
        "奖励太难就加一个分级的 (graded) 奖励或先做 SFT；太容易就换更难的提示；检查 reward_weights。"
    )


def _range(values: np.ndarray) -> str:
    low, high = values.min(), values.max()
    return f"{low:g}" if low == high else f"{low:g} 到 {high:g}"


def _zero_std(values: np.ndarray) -> float:
    """Share of groups without any difference; values: (groups, num_generations)."""
    return float((values.std(axis=1) < ZERO).mean())


def _figures(name: str, values: np.ndarray) -> RewardFigures:
    return RewardFigures(name, float(values.mean()), float(values.std(ddof=1)), _zero_std(values))


def _name(function: Callable) -> str:
    return getattr(function, "__name__", type(function).__name__)
