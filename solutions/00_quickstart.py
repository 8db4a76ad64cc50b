# %% [markdown]
# {{card}}

# %% [markdown]
# 微调 (fine-tuning) 是在一个已经训练好的模型上，用少量数据再训练一会儿，让它学会一种新的行为。
# 这一课不训练，只做两件事：看清手里的机器，再亲眼看到微调前后的差别，并学会**用程序**而不是凭感觉判定差别。
#
# 用的模型随课程附带，叫“小诗” (xiaoshi-base)：一个六百万参数的基座模型 (base model)，只读过古典诗。不需要显卡，也不需要网络。

# %% [markdown]
# ## 1 给机器体检
#
# 运行下面这一格。绿色是好的；黄色不影响本课程的 CPU 档；红色要修，右边一栏写着怎么修。

# %% tags=["volatile"]
from lab_utils import doctor

doctor.examine()

# %% [markdown]
# ## 2 这台机器用哪一档
#
# 每个实验都能在两档配置 (profile) 上运行：`cpu` 档用随课程附带的小模型，`gpu` 档从 ModelScope 取一个 Qwen。
# 选哪一档由机器决定，也可以用环境变量 `LAB_PROFILE` 指定。

# %% tags=["volatile"]
from lab_utils import profile

setting = profile.current()
print(f"配置：{setting.name}（{setting.reason}）")
print(f"训练用的模型：{setting.base_model}，数据类型：{setting.torch_dtype}")

# %% [markdown]
# ## 3 基座模型：接着写
#
# 基座模型只做过一件事：读到一段文字，猜下一个词元 (token)。所以它最擅长**续写** (continue the text)。
# 先给它一个诗题，看它接着写什么。

# %%
from lab_utils import models
from lab_utils.models.generation import chat_prompt, complete

base, tokenizer = models.load(models.SHIPPED)
print(complete(base, tokenizer, ["《秋夜》\n"])[0].text)

# %% [markdown]
# 写得像样。现在换一种说法，像对助手那样**下指令** (instruction)：
#
# > 写一首五言绝句，题目：秋夜
#
# **先猜一猜**：它会写出四句、每句五个字的诗吗？想好了再运行。

# %%
request = "写一首五言绝句，题目：秋夜"
prompt = chat_prompt(tokenizer, request)
print(prompt)
print("────── 模型接着写 ──────")
print(complete(base, tokenizer, [prompt])[0].text)

# %% [markdown]
# 提示 (prompt) 外面的 `<|im_start|>` 和 `<|im_end|>` 是对话模板 (chat template) 的标记，它们告诉模型谁在说话、说完没有。
# 基座认得这些标记，却没有人教过它“照着要求做”，于是它只是又接着写了一段。

# %% [markdown]
# ## 4 微调之后：照着做
#
# 课程附带了一个训练好的 LoRA 适配器 (adapter)，就是第 05 课里你将亲手训练的那一种。它只有基座的百分之几大，装上去，同一句话再问一次。

# %%
tuned, _ = models.load(models.SHIPPED, adapter=models.shipped_adapter())
print(complete(tuned, tokenizer, [prompt])[0].text)

# %% [markdown]
# 一首不够，看几首。左边是基座，右边是装上适配器之后，提示完全相同，这些题目在训练时都没有出现过。

# %%
from IPython.display import HTML

from lab_utils import plots
from lab_utils.evaluation.verse_exam import held_out_questions

rows = [row for row in held_out_questions(per_form=48) if row["form"] == "五言绝句"]
prompts = [chat_prompt(tokenizer, row["messages"][0]["content"]) for row in rows]
before = [c.text for c in complete(base, tokenizer, prompts)]
after = [c.text for c in complete(tuned, tokenizer, prompts)]
themes = [row["theme"] for row in rows]
HTML(plots.side_by_side({"题目": themes[:4], "基座": before[:4], "微调后": after[:4]}))

# %% [markdown]
# ## 5 用程序判定
#
# “看起来变好了”不是证据。五言绝句的形式可以用程序判定：**四句，每句五个字**。分三步写出这个判定。
#
# ### 练习 1：每句多少字
#
# ⏱ 约 5 分钟 · 难度 ★☆☆
#
# 写 `line_lengths(text)`：返回每一句的字数。句子以 `，`、`。` 或换行结束，标点和换行连在一起时不算出空的句子。
#
# 例：`"春风又一年，花落小溪边。"` 返回 `[5, 5]`。
#
# <details><summary>提示：结果里多出了 0</summary>先把 <code>，</code> 和 <code>。</code> 都换成换行，再按换行切开，最后跳过空的部分。</details>

# %% exercise="line_lengths"
def line_lengths(text: str) -> list[int]:
    """每一句的字数。"""
    ### BEGIN SOLUTION
    for mark in "，。":
        text = text.replace(mark, "\n")
    return [len(line) for line in text.split("\n") if line]
    ### END SOLUTION

# %% check="line_lengths"
from lab_utils.checks import quickstart as checks

checks.LINE_LENGTHS(line_lengths)

# %% [markdown]
# ### 练习 2：是不是五言绝句
#
# ⏱ 约 3 分钟 · 难度 ★☆☆
#
# 写 `is_quatrain(lengths)`：`lengths` 是练习 1 的结果；正好四句、每句五个字时返回 `True`，否则返回 `False`。

# %% exercise="is_quatrain"
def is_quatrain(lengths: list[int]) -> bool:
    """四句，每句五个字。"""
    ### BEGIN SOLUTION
    return len(lengths) == 4 and all(n == 5 for n in lengths)
    ### END SOLUTION

# %% check="is_quatrain"
checks.IS_QUATRAIN(is_quatrain)

# %% [markdown]
# ### 练习 3：通过率
#
# ⏱ 约 2 分钟 · 难度 ★☆☆
#
# 写 `pass_rate(passed)`：`passed` 是一列 `True` 或 `False`，返回其中 `True` 所占的比例；一个结果都没有时返回 `0.0`。

# %% exercise="pass_rate"
def pass_rate(passed: list[bool]) -> float:
    """通过的比例，0 到 1。"""
    ### BEGIN SOLUTION
    return sum(passed) / len(passed) if passed else 0.0
    ### END SOLUTION

# %% check="pass_rate"
checks.PASS_RATE(pass_rate)

# %% [markdown]
# 课程自带的判定 `lab_utils.verse.check` 还看标点、押韵 (rhyme)、重复和是否切题。下面用它，所以前面的练习没有写完也能继续。
#
# **先猜一猜**：48 个没见过的题目，基座通过几个？微调后呢？

# %%
from lab_utils import verse

passed = {
    "基座": [verse.check(text, "五言绝句").form_ok for text in before],
    "微调后": [verse.check(text, "五言绝句").form_ok for text in after],
}
for name, results in passed.items():
    print(f"{name}：{len(results)} 首里通过 {sum(results)} 首")

# %% [markdown]
# 48 首只是一个样本，换 48 个题目数字会变。所以报告比例时要带上**置信区间** (confidence interval)：
# 把这 48 个结果有放回地重抽很多次，看比例落在哪里，这叫自助法 (bootstrap)。第 05 课会亲手写它。

# %%
from lab_utils import course
from lab_utils.evaluation import intervals

scores = {name: intervals.bootstrap(results) for name, results in passed.items()}
plots.rates({"五言绝句": scores}, "微调让模型学会了照着要求做", "形式正确的比例")
for name, score in scores.items():
    print(f"{name}：{score}")
course.record(
    format_pass_base=scores["基座"].value,
    format_pass_tuned=scores["微调后"].value,
    n=scores["基座"].n,
)

# %% [markdown]
# 图上的竖线就是区间。两个区间隔得很远：这个差别不是运气。

# %% [markdown]
# ## 6 这些权重占多少内存
#
# 模型有多少个参数，每个参数用多少位 (bit) 存，相乘就是权重的大小。16 位是最常见的；量化 (quantization) 之后可以只用 4 位。
#
# ### 练习 4：权重的内存
#
# ⏱ 约 3 分钟 · 难度 ★☆☆
#
# 写 `weight_gib(parameters, bits)`：返回权重占多少 GiB（1 GiB 是 2³⁰ 字节，1 字节是 8 位）。

# %% exercise="weight_gib"
def weight_gib(parameters: int, bits: float) -> float:
    """权重占的内存，单位 GiB。"""
    ### BEGIN SOLUTION
    return parameters * bits / 8 / 2**30
    ### END SOLUTION

# %% check="weight_gib"
checks.WEIGHT_GIB(weight_gib)

# %% [markdown]
# 用手边的模型验证：公式算的，和张量 (tensor) 实际占的，应当一样。再看看适配器有多小。

# %%
count = sum(p.numel() for p in base.parameters())
measured = sum(p.numel() * p.element_size() for p in base.parameters())
extra = sum(p.numel() for name, p in tuned.named_parameters() if "lora_" in name)
print(f"小诗：{count:,} 个参数，32 位，公式 {count * 32 // 8:,} 字节，实测 {measured:,} 字节")
print(f"适配器：{extra:,} 个参数，是基座的 {extra / count:.1%}")
for bits in (16, 8, 4):
    print(f"Qwen2.5-7B 用 {bits:2d} 位：{7_615_616_512 * bits / 8 / 2**30:5.2f} GiB")

# %% [markdown]
# ## 小结
#
# - 基座模型**续写**，微调后的模型**照做**；差别来自训练数据的样子，不是模型的大小。
# - 判定要靠程序和数字，比例要带置信区间。
# - 适配器很小：底座不动，只训练、只保存这一点点参数。
#
# ## 思考题
#
# 1. 把 `request` 里的“五言绝句”换成“七言律诗”再问一次，微调后的模型照做了吗？怎样判定？
# 2. 如果 48 首全都通过，能不能说通过率就是 100%？（看看区间的下界。）
# 3. 适配器在硬盘上不到两兆，基座十几兆。要给一百位用户各做一个风格，只存适配器能省多少？
#
# ## 下一步
#
# 第 05 课：亲手写出 `swift sft` 命令，在这台机器上把这个适配器训练出来。
