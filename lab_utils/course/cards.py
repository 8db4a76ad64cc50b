"""What is shown of the manifest, in Markdown: the opening card of a lab, the README's table."""

from lab_utils.course import manifest
from lab_utils.errors import InvalidValue


def card(number_or_name: str) -> str:
    """Opening card of a lab in Markdown: 目标, 预计时间, 显存或内存, 难度, 前置."""
    lab = manifest.lab(number_or_name)
    required = (
        "、".join(f"{before.number} {before.title}" for before in map(manifest.lab, lab.requires)) or "无"
    )
    goals = "\n".join(f"- {goal}" for goal in lab.goals)
    gpu = f"显存约 {lab.memory_gib['gpu']:g} GiB（估计）" if lab.memory_gib["gpu"] else "不需要"
    rows = (
        ("预计时间", f"CPU 约 {lab.minutes['cpu']} 分钟；GPU 约 {lab.minutes['gpu']} 分钟（估计）"),
        (
            "显存或内存",
            f"CPU：内存约 {lab.memory_gib['cpu']:g} GiB；GPU：{gpu}",
        ),
        ("难度", lab.difficulty),
        ("前置", required),
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"# {lab.number} {lab.title}\n\n**目标**\n\n{goals}\n\n| 项目 | 说明 |\n| --- | --- |\n{table}\n"


def readme_table(lang: str) -> str:
    """The README's table of labs in Markdown. `lang`: "zh" or "en"; InvalidValue for anything else."""
    heads = {
        "zh": ("编号", "实验", "学什么", "时间 CPU / GPU", "内存 / 显存"),
        "en": ("No.", "Lab", "What", "Time CPU / GPU", "RAM / GPU memory"),
    }
    if lang not in heads:
        raise InvalidValue(f"readme_table 只有 'zh' 和 'en' 两种语言，没有 {lang!r}")
    minute = {"zh": "分钟", "en": "min"}[lang]
    lines = ["| " + " | ".join(heads[lang]) + " |", "| --- | --- | --- | --- | --- |"]
    for lab in manifest.LABS:
        title = lab.title if lang == "zh" else lab.title_en
        cells = (
            lab.number,
            f"[{title}](labs/{lab.name}.ipynb)",
            lab.summary[lang],
            f"{lab.minutes['cpu']} / {lab.minutes['gpu']} {minute}",
            f"{lab.memory_gib['cpu']:g} / {lab.memory_gib['gpu']:g} GiB",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
