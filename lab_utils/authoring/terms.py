"""The terminology table: one term, one translation.

The lint refuses the variants, which are regular expressions. A variant is listed only where
it can't mean anything else in this course.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """`preferred` is the course's word for `english`; `rejected` are patterns of other translations."""

    preferred: str
    english: str
    rejected: tuple[str, ...]


TERMS = (
    Term("微调", "fine-tuning", ("精调", "细调", "微調")),
    Term("监督微调", "supervised fine-tuning, SFT", ("有监督微调", "监督式微调")),
    Term("指令微调", "instruction tuning", ("指令调优", "指示微调", "指令精调")),
    Term("预训练", "pretraining", ("预先训练", "前训练")),
    Term("大语言模型", "large language model, LLM", ("大型语言模型", "大规模语言模型", "语言大模型")),
    Term("词元", "token", ("词符", "语元", r"(?<!访问)令牌(?!桶)")),
    Term("分词器", "tokenizer", ("标记器", "词元化器", "令牌化器", "分词机")),
    Term("低秩适配", "low-rank adaptation, LoRA", ("低秩自适应", "低秩适应", "低阶适配", "低秩适配性")),
    Term("适配器", "adapter", ("转接器", "适配件")),
    Term("量化", "quantization", ("量子化",)),
    Term("提示词", "prompt", ("提示语", "提示字", "咒语")),
    Term("对话模板", "chat template", ("聊天模板", "会话模板", "对话模版")),
    Term("学习率", "learning rate", ("学习速率", "学习步率")),
    Term("梯度累积", "gradient accumulation", ("梯度累计", "梯度积累", "梯度累加")),
    Term("批大小", "batch size", ("批量大小", "批次大小", "批尺寸")),
    Term("损失函数", "loss function", ("损耗函数", "代价函数", "成本函数")),
    Term("权重", "weights", ("权值", "权重值", "權重")),
    Term("嵌入", "embedding", ("嵌套向量", "内嵌向量")),
    Term("注意力", "attention", ("关注机制", "注意机制")),
    Term("超参数", "hyperparameter", ("超参量", "超级参数", "超参(?!数)")),
    Term("过拟合", "overfitting", ("过度拟合", "过渡拟合")),
    Term("灾难性遗忘", "catastrophic forgetting", ("灾难遗忘", "灾难性忘却")),
    Term("检查点", "checkpoint", ("存档点", "校验点", "断点文件")),
    Term("验证集", "validation set", ("校验集", "检验集")),
    Term("数据集", "dataset", ("资料集", "数据集合")),
    Term("困惑度", "perplexity", ("迷惑度", "混乱度")),
    Term("奖励模型", "reward model", ("奖赏模型", "回报模型", "激励模型")),
    Term("偏好对齐", "preference alignment", ("偏好对准",)),
    Term("显存", "GPU memory", ("显卡内存", "显示内存")),
    Term("默认", "default", ("缺省", "预设值")),
    Term("部署", "deployment", ("布署",)),
)
