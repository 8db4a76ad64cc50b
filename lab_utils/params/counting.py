"""Counts the parameters of a model by component, from its configuration alone: `count`.

A tied tensor counts once. For a mixture of experts the parameters that one token passes are counted too.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab_utils.params.components import COMPONENTS, GROUPS
from lab_utils.params.configs import load_config
from lab_utils.params.mixture_of_experts import active_parameters
from lab_utils.params.outline import outline

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PretrainedConfig

    from lab_utils.params.configs import Source


@dataclass(frozen=True)
class ParamCount:
    """The parameters of a model, each tensor once."""

    name: str
    by_component: dict[str, int]
    """Component (a key of COMPONENTS) -> parameters; the values add up to `total`."""
    active: int | None
    """Parameters that one token passes: `total`, less the routed experts it isn't sent to. None for a
    mixture of experts whose configuration doesn't say how many experts a token is sent to."""

    @property
    def total(self) -> int:
        return sum(self.by_component.values())

    @property
    def shares(self) -> dict[str, float]:
        """Component -> its share of the total, 0 to 1."""
        return {part: n / self.total for part, n in self.by_component.items()}

    @property
    def groups(self) -> dict[str, int]:
        """The components put together: 嵌入, 注意力, 前馈网络 (experts and router too), 输出头, 其他."""
        sums = dict.fromkeys((*GROUPS.values(), "其他"), 0)
        for part, n in self.by_component.items():
            sums[GROUPS.get(part.split("_")[0], "其他")] += n
        return sums

    def table(self) -> "pd.DataFrame":
        """One row a component, in the order of COMPONENTS, and the total: 部分, 参数量, 占比."""
        import pandas as pd

        rows = [(COMPONENTS[part], n, n / self.total) for part, n in self.by_component.items()]
        rows.append(("合计", self.total, 1.0))
        return pd.DataFrame(
            [(part, f"{n:,}", f"{share:.2%}") for part, n, share in rows],
            columns=["部分", "参数量", "占比"],
        ).set_index("部分")

    def __str__(self) -> str:
        active = f"，每个词元用到 {self.active:,}" if self.active not in (None, self.total) else ""
        return f"{self.name}：{self.total:,} 个参数{active}"


def count(source: "Source") -> ParamCount:
    """The parameters of the model that `source` describes, by component.

    `source`: as for `load_config`. A tied tensor counts once, as embedding; biases count with the
    layer they belong to. What transformers keeps as a buffer isn't a parameter: DeepSeek-V3's
    58 × 256 correction biases of the router, which no gradient trains, are not in its count, nor
    is its module for multi-token prediction, which transformers doesn't build.

    Raises what `load_config` raises.
    """
    config = load_config(source)
    parts = dict(outline(config).by_component)
    return ParamCount(model_title(source, config), parts, active_parameters(parts, config))


def model_title(source: "Source", config: "PretrainedConfig") -> str:
    """What to call the model in a table or a message."""
    if isinstance(source, (str, Path)):
        return Path(source).name
    return Path(getattr(config, "name_or_path", "") or config.model_type).name
