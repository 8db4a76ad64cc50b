# %% [markdown]
# {{card}}

# %% [markdown]
# 监督微调 (SFT) 要有范文，DPO 要有成对的好坏。可是很多任务没有范文，却有**判定**：算术题的答案对不对，一首绝句的形式和韵脚合不合，程序一查就知道。
# 这一课只给模型一个会打分的函数，叫可验证的奖励 (verifiable reward)；让它自己写许多遍，写得比自己平均水平好的多写一点，差的少写一点。这就是组相对策略优化 (Group Relative Policy Optimization, GRPO)。
#
# 顺序是：写奖励 → 算优势 → 写损失 → 真的训练。中途会遇到一次真正的奖励作弊 (reward hacking)。

# %% tags=["volatile"]
from lab_utils import course, models, profile

setting = profile.current()
output = course.output("09")
models.quiet()
print(f"配置 {setting.name}：{setting.reason}")

# %% [markdown]
# ## 1 奖励：一层一层给
#
# 先看算术。希望模型先写推理，再写答案：
#
# ```
# <reasoning>3 + 4 = 7</reasoning>
# <answer>7</answer>
# ```
#
# 小模型一开始很少能写全。如果只有“全对才给分”，大家都是 0 分，分不出谁好一点。所以奖励分成五层，从最想要的到最容易做到的：
#
# | 奖励 | 分值 | 什么时候给 |
# | --- | --- | --- |
# | `correct_answer` | 2.0 | `<answer>` 里的数与标准答案相等 |
# | `integer_answer` | 0.5 | `<answer>` 里是一个整数，对错不论 |
# | `strict_xml` | 0.5 | 从头到尾正好是上面的格式 |
# | `soft_xml` | 0.5 | 两部分都有、次序对，空白和前后的话不计较 |
# | `xml_tags` | 每个 0.125 | 四个标签，每个恰好出现一次；`</answer>` 之后话太多会扣分 |
#
# ### 练习 1：答案对不对
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `correctness_reward(completions, answers)`：两个一样长的列表，返回每条回答的得分。**最后一个** `<answer>…</answer>` 里的内容去掉首尾空白后，与标准答案（也去掉空白）相等得 2.0，否则 0.0。
#
# <details><summary>提示：17 也得了分</summary>“包含”不是“相等”。先取出标签里的内容，再用 == 比较。</details>
# <details><summary>提示：没有标签时出错</summary>re.findall 找不到时返回空列表，取最后一个之前先看它空不空。</details>

# %% exercise="correctness_reward"
import re

def correctness_reward(completions: list[str], answers: list[str]) -> list[float]:
    """答对 2.0，否则 0.0。"""
    ### BEGIN SOLUTION
    scores = []
    for text, answer in zip(completions, answers):
        found = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
        scores.append(2.0 if found and found[-1].strip() == answer.strip() else 0.0)
    return scores
    ### END SOLUTION

# %% check="correctness_reward"
from lab_utils.checks import grpo as checks

checks.CORRECTNESS_REWARD(correctness_reward)

# %% [markdown]
# ### 练习 2：格式对不对
#
# ⏱ 约 8 分钟 · 难度 ★★☆
#
# 写 `format_reward(completions)`：整条回答**从第一个字到最后一个字**正好是 `<reasoning>…</reasoning>`、一个换行、`<answer>…</answer>`，每个标签只出现一次，两部分都不空，得 0.5，否则 0.0。推理可以有好几行。
#
# <details><summary>提示：前后有多余的话也得了分</summary>re.search 在中间找到就算，re.match 只管开头；整条都要合格用 re.fullmatch。</details>
# <details><summary>提示：推理有几行就不得分</summary>默认的 . 不匹配换行，加上 re.DOTALL。</details>

# %% exercise="format_reward"
def format_reward(completions: list[str]) -> list[float]:
    """格式完全合格 0.5，否则 0.0。"""
    ### BEGIN SOLUTION
    pattern = r"<reasoning>(.+?)</reasoning>\n<answer>(.+?)</answer>"
    scores = []
    for text in completions:
        match = re.fullmatch(pattern, text, re.DOTALL)
        once = all(text.count(tag) == 1 for tag in ("<reasoning>", "</reasoning>", "<answer>", "</answer>"))
        scores.append(0.5 if match and once and all(part.strip() for part in match.groups()) else 0.0)
    return scores
    ### END SOLUTION

# %% check="format_reward"
checks.FORMAT_REWARD(format_reward)

# %% [markdown]
# ### 练习 3：每条回答一个数
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 奖励函数漏写一个 `return`，就会给出 `None`；除以 0 会给出 `NaN`。训练框架往往不报错，只是悄悄学歪。
# 写 `as_rewards(scores)`：把一列分数变成一列 `float`，一个也不能少；`True` 是 1.0，`None`、`NaN` 和无穷大都算 0.0。

# %% exercise="as_rewards"
import math

def as_rewards(scores: list) -> list[float]:
    """每个分数变成一个有限的数。"""
    ### BEGIN SOLUTION
    return [0.0 if s is None or not math.isfinite(s) else float(s) for s in scores]
    ### END SOLUTION

# %% check="as_rewards"
checks.AS_REWARDS(as_rewards)

# %% [markdown]
# 课程的五个奖励在 `lab_utils.rewards` 里，写法是 TRL 和 ms-swift 都认的 `f(completions, **columns)`。**先猜一猜**：下面六种回答，谁的总分最高？“答对但没有格式”和“格式全对但答错”，谁高？

# %%
from lab_utils import plots, rewards

answers = {
    "只说 7": "等于 7 吧",
    "标签没写完": "<answer>7",
    "只有答案": "<answer>7</answer>",
    "写在一行，答错": "<reasoning>3 + 4 = 8</reasoning><answer>8</answer>",
    "格式全对，答错": "<reasoning>3 + 4 = 8</reasoning>\n<answer>8</answer>",
    "全对": "<reasoning>3 + 4 = 7</reasoning>\n<answer>7</answer>",
}
texts = list(answers.values())
layers = {f.__name__: f(texts, answer=["7"] * len(texts)) for f in rewards.ARITHMETIC}
plots.reward_layers(plots.axes("分层的奖励：每走近一步都有一点分", "", ""), list(answers), layers)

# %% [markdown]
# 答对的分量 (2.0) 比其余几层加起来 (2.0) 不小，所以“只追格式、不管对错”占不到便宜。每一层都能把模型往前带一步。

# %% [markdown]
# ### 全是 0 分，什么也学不到
#
# 拿起点模型试试：第 00 课的小诗加上适配器。它只学过写诗，让它算 3 + 4，抽两道题、每题 8 条回答。
# `preflight` 在训练之前问一句：这样的奖励，学得到东西吗？

# %% tags=["volatile"]
from lab_utils.models.generation import chat_prompt, complete

policy, tokenizer = models.load(models.SHIPPED, adapter=models.shipped_adapter())
policy = policy.merge_and_unload()
form = "先写 <reasoning>…</reasoning>，换行，再写 <answer>…</answer>。"
sums = [{"question": f"{a} + {b} = ？{form}", "answer": str(a + b)} for a, b in ((3, 4), (2, 6))]
asked = [chat_prompt(tokenizer, row["question"]) for row in sums for _ in range(8)]
replies = [c.text for c in complete(policy, tokenizer, asked, 48, temperature=1.0)]
print(replies[0])
try:
    rewards.preflight(
        rewards.ARITHMETIC, [replies[:8], replies[8:]], sums,
        num_generations=8, generation_batch_size=16, temperature=1.0,
    )
except rewards.PreflightError as error:
    print(error)

# %% [markdown]
# 它照样写诗。16 条回答、五层奖励，全是 0：没有谁比谁好，也就没有方向。**奖励只能在模型偶尔做得到的事情里挑选，不能教它从来做不到的事**；后者先用 SFT。
# 真正的算术题（GSM8K）留给第 8 节的 7B 模型；这里换成小诗做得到的事。

# %% [markdown]
# ## 2 优势：和自己比
#
# PPO 要另外训练一个价值模型 (value model) 来估计“这道题平均能得几分”。GRPO 不要它：同一个提示词写 $G$ 条，组内的平均分就是基准。
#
# $$A_i=\frac{r_i-\mathrm{mean}(r_1,\dots,r_G)}{\mathrm{std}(r_1,\dots,r_G)+10^{-4}}$$
#
# ### 练习 4：组内优势
#
# ⏱ 约 10 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `group_advantages(rewards, group_size)`：`rewards` 的形状是 `(batch,)`，同一个提示词的 `group_size` 条挨在一起；返回同样形状的优势。标准差用 torch 默认的。
#
# <details><summary>提示：形状对不上，不能相减</summary>先 view(-1, group_size)，求平均时加 keepdim=True。</details>
# <details><summary>提示：出现 NaN</summary>全组相等时标准差是 0；除之前先加 1e-4。</details>

# %% exercise="group_advantages"
import torch

def group_advantages(rewards: torch.Tensor, group_size: int) -> torch.Tensor:
    """组内优势，形状 (batch,)。"""
    ### BEGIN SOLUTION
    groups = rewards.view(-1, group_size)
    centred = groups - groups.mean(1, keepdim=True)
    return (centred / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    ### END SOLUTION

# %% check="group_advantages"
checks.GROUP_ADVANTAGES(group_advantages)

# %% [markdown]
# 四道题，每题 8 条回答。**先猜一猜**：全都答对的那一组，优势是多少？只有一条答对的那一组，那一条的优势有多大？

# %%
import matplotlib.pyplot as plt

from lab_utils import align

groups = {
    "有对有错": [2, 0, 2, 0, 2, 0, 0, 2],
    "只对一条": [0, 0, 0, 2, 0, 0, 0, 0],
    "全对": [2] * 8,
    "全错": [0] * 8,
}
scores = torch.tensor(list(groups.values()), dtype=torch.float32)
advantages = dict(zip(groups, align.grpo_advantages(scores.flatten(), 8).view(-1, 8).tolist()))
plots.use_course_style()
_, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 4.2), sharex=True)
plots.group_bars(top, bottom, groups, advantages)
top.set_title("全对和全错的组，优势都是 0：什么也不教")
print({name: round(max(values), 2) for name, values in advantages.items()})

# %% [markdown]
# 难题里难得的一条好回答，优势最大 (2.47)；而全对和全错的组没有信号。训练时要盯着这个比例，TRL 和 ms-swift 把它记作 `frac_reward_zero_std`。
#
# ### 练习 5：白写的组
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `frac_reward_zero_std(rewards, group_size)`：组内奖励**全都相等**的组占多大比例（0 到 1）。

# %% exercise="frac_reward_zero_std"
def frac_reward_zero_std(rewards: torch.Tensor, group_size: int) -> float:
    """没有差别的组所占的比例。"""
    ### BEGIN SOLUTION
    groups = rewards.view(-1, group_size)
    return (groups == groups[:, :1]).all(1).float().mean().item()
    ### END SOLUTION

# %% check="frac_reward_zero_std"
checks.FRAC_REWARD_ZERO_STD(frac_reward_zero_std)

# %% [markdown]
# ### 练习 6：一步里有几道题
#
# ⏱ 约 4 分钟 · 难度 ★☆☆
#
# TRL 的批大小 (batch size) 数的是**回答**，不是题。写 `prompts_per_step(per_device_batch, devices, accumulation, num_generations)`：一次更新里有几道不同的题；回答不能正好分成每组 `num_generations`（至少 2）条时，返回 0。

# %% exercise="prompts_per_step"
def prompts_per_step(per_device_batch: int, devices: int, accumulation: int, num_generations: int) -> int:
    """一次更新里不同的题数；分不成整组时是 0。"""
    ### BEGIN SOLUTION
    completions = per_device_batch * devices * accumulation
    if num_generations < 2 or completions % num_generations:
        return 0
    return completions // num_generations
    ### END SOLUTION

# %% check="prompts_per_step"
checks.PROMPTS_PER_STEP(prompts_per_step)

# %% [markdown]
# 分不成整组时，TRL 在训练之前就会拒绝。看看它的原话：

# %%
from trl import GRPOConfig, GRPOTrainer

try:
    GRPOConfig(output_dir=str(output / "trl"), per_device_train_batch_size=32, num_generations=6,
               use_cpu=True, bf16=False)
except ValueError as error:
    print(error)

# %% [markdown]
# ## 3 损失：走一小步，别走太远
#
# 一条回答的每个词元用同一个优势 $A_i$。旧策略 (old policy) 写下这些词元，新策略 (policy) 更新之后对它们的概率变成原来的 $\rho_t=\pi(y_t)/\pi_\text{old}(y_t)$ 倍。目标是
#
# $$\min\left(\rho_tA_i,\ \mathrm{clip}(\rho_t,1-\varepsilon,1+\varepsilon)A_i\right)$$
#
# **先猜一猜**：优势为正时，$\rho$ 超过 $1+\varepsilon$ 之后目标还会变大吗？优势为负、$\rho$ 又很大时呢？

# %% tags=["volatile"]
ratio = torch.linspace(0.4, 1.8, 141)
plots.use_course_style()
_, panels = plt.subplots(1, 2, figsize=(8.4, 3.2), sharex=True)
for ax, advantage in zip(panels, (1.0, -1.0)):
    ax.plot(ratio, ratio * advantage, "--", color=plots.SOFT, label="不裁剪")
    clipped = align.clipped_objective(ratio, torch.tensor(advantage), 0.2)
    ax.plot(ratio, clipped, color=plots.DARK, linewidth=2, label="裁剪 ε=0.2")
    ax.axvspan(0.8, 1.2, color=plots.BRIGHT, alpha=0.12, linewidth=0)
    ax.set(title=f"优势 {advantage:+.0f}", xlabel="概率的比值 ρ")
panels[0].set_ylabel("目标")
panels[0].legend(frameon=False);

# %% [markdown]
# 好回答最多加到 $1+\varepsilon$ 倍就不再给好处；坏回答减到 $1-\varepsilon$ 倍就够了，但如果它反而变多了（右图右侧），照罚不误。平的地方没有梯度。橙色带是 $1\pm\varepsilon$ 之内，两条线重合。
#
# ### 练习 7：GRPO 的损失
#
# ⏱ 约 12 分钟 · 难度 ★★★ · 重要 ★★★
#
# 写 `grpo_loss(logps, old_logps, advantages, mask, epsilon)`：`logps`、`old_logps`、`mask` 的形状是 `(batch, time)`，`advantages` 是 `(batch,)`。返回每条回答的损失 `(batch,)`：裁剪目标的**相反数**，在这条回答自己的词元（`mask` 为 1）上求平均；一个词元也没有的回答是 0。
#
# <details><summary>提示：形状对不上</summary>advantages 每条一个，用 unsqueeze(1) 让它沿时间广播。</details>
# <details><summary>提示：差一点点</summary>除以的是每条自己的长度 mask.sum(1)，不是补齐后的宽度；取 min，不是只用裁剪项。</details>

# %% exercise="grpo_loss"
def grpo_loss(logps, old_logps, advantages, mask, epsilon):
    """每条回答的 GRPO 损失，形状 (batch,)。"""
    ### BEGIN SOLUTION
    ratio = torch.exp(logps - old_logps)
    advantages = advantages.unsqueeze(1)
    objective = torch.min(ratio * advantages, ratio.clamp(1 - epsilon, 1 + epsilon) * advantages)
    return -(objective * mask).sum(1) / mask.sum(1).clamp(min=1)
    ### END SOLUTION

# %% check="grpo_loss"
checks.GRPO_LOSS(grpo_loss)

# %% [markdown]
# ### 损失是 0，不等于没有学
#
# 刚写完就更新时新旧策略相同，$\rho=1$；一组优势之和又是 0，所以损失总在 **0** 附近。可是梯度不是 0。反过来，全组同分时损失也是 0，梯度才真的是 0。两种 0 要分清：看 `grad_norm` 和 `frac_reward_zero_std`，不要看 `loss`。

# %%
for name in ("有对有错", "全对"):
    advantage = torch.tensor(advantages[name])
    logps = torch.full((8, 20), -2.0, requires_grad=True)
    loss = align.grpo_loss(logps, logps.detach(), None, advantage, torch.ones(8, 20))
    loss.backward()
    print(f"{name}：损失 {abs(loss.item()):.4f}，梯度范数 {logps.grad.norm():.4f}")

# %% [markdown]
# ### 几个变体
#
# GRPO 先在每条回答里平均，再在回答之间平均。于是长回答里的每个词元分量轻：错的长篇大论，每个词元挨的罚很轻。
# 下面量一量：一条 10 个词元、一条 40 个词元的回答，各种平均法里每个词元分到多少梯度。

# %%
import pandas as pd

mask = (torch.arange(40) < torch.tensor([[10], [40]])).float()
pair, weights = torch.tensor([1.0, -1.0]), {}
for kind in ("grpo", "dapo", "dr_grpo"):
    logps = torch.zeros(2, 40, requires_grad=True)
    align.grpo_loss(logps, torch.zeros(2, 40), None, pair, mask, loss_type=kind, max_length=48).backward()
    weights[kind] = logps.grad[:, 0].abs().tolist()
pd.DataFrame(weights, index=["10 个词元的回答", "40 个词元的回答"]).round(4)

# %% [markdown]
# - **GRPO**：短的 0.05，长的 0.0125，差 4 倍；
# - **DAPO**：除以整批的词元数，一视同仁；另外把裁剪的上界放宽 (clip-higher)，并丢掉没有差别的组 (dynamic sampling)；TRL 默认用它的平均法；
# - **Dr. GRPO**：除以常数，也一视同仁；优势也不除以标准差。
#
# 不除标准差有什么区别？看一道容易题（8 条里只错一条）和一道半对半错的题：

# %%
two = torch.tensor([1.0] * 7 + [0.0] + [1.0, 0.0] * 4)
for scale, name in (("group", "GRPO"), ("none", "Dr. GRPO")):
    easy, half = align.grpo_advantages(two, 8, scale).view(2, 8)
    print(f"{name:8}：容易题答错的那条 {easy.min():+.2f}；半对半错的题答错的那条 {half.min():+.2f}")

# %% [markdown]
# 除了标准差，太容易和太难的题里少数派的优势会被放大；Dr. GRPO 认为这是对题目难度的偏差，所以不除。

# %% [markdown]
# ## 4 小诗的奖励：哪一个有信号
#
# 回到小诗。每一个关于诗的奖励都由第 00 课的验证器算出：形式、押韵、平仄 (tone)、切题（题目里的意象写到了几个）。
# 用训练专用的题目抽 8 组，看看哪些奖励在组内有差别。为了快，只练五言绝句。

# %% tags=["volatile"]
from lab_utils.evaluation import verse_exam

FORMS = ("五言绝句",)
probe = verse_exam.questions("reward", 8, FORMS)
asked = [chat_prompt(tokenizer, row["messages"][0]["content"]) for row in probe for _ in range(8)]
replies = [c.text for c in complete(policy, tokenizer, asked, 40, temperature=1.0, seed=1)]
report = rewards.preflight(
    [rewards.verse_form, rewards.verse_rhyme, rewards.verse_tone, rewards.verse_theme],
    [replies[i : i + 8] for i in range(0, 64, 8)],
    [{"form": row["form"], "theme": row["theme"]} for row in probe],
    num_generations=8, generation_batch_size=64, temperature=1.0,
)
print(report)

# %% [markdown]
# 形式已经学得很好，多数组里全都合格，没有什么可教了；**切题最差，组内差别又大**，正是 GRPO 用武之地。
#
# 训练之前先考一次。考题是训练和 SFT 都没有用过的题目，训练前后答的是同一份。

# %% tags=["volatile"]
exam = verse_exam.questions("eval", 160, FORMS)
columns = {name: [row[name] for row in exam] for name in ("form", "theme")}
REWARDS, WEIGHTS = [rewards.theme_in_form, rewards.verse_rhyme], [1.0, 0.25]

def sit_exam(policy):
    """答一遍考卷；`reward` 一列是这一课要提高的可验证奖励。"""
    table = verse_exam.evaluate_policy(policy, tokenizer, exam, max_new_tokens=40)
    scores = [f(table["text"].tolist(), **columns) for f in REWARDS]
    return table.assign(in_form=scores[0], reward=[sum(w * s for w, s in zip(WEIGHTS, row)) for row in zip(*scores)])

before = sit_exam(policy)
before[["form", "rhyme", "theme", "tone", "reward"]].mean().round(3)

# %% [markdown]
# ## 5 第一次尝试：奖励涨了，诗坏了
#
# 要切题，最直接的奖励是数一数：回答里出现了多少个切题的字。`theme_word_count` 就是这样写的。
# 另一个奖励 `verse_form` 的权重设为 0，只旁观、不起作用。
#
# 下面是完整的 TRL 设置。两个要点：
#
# - 合并适配器之后权重是冻结的，要 `requires_grad_(True)`，否则没有可训练的参数；
# - `num_generations` 是组的大小，`per_device_train_batch_size` 数的是回答：一步 64 条就是 8 道题、每题 8 条。

# %%
import copy

from lab_utils.training import grpo, history
from transformers import PrinterCallback

prompts = grpo.dataset(verse_exam.questions("reward", 160, FORMS))

def train(model, functions, weights, keep, **other):
    """用 TRL 训练 `model`，返回每一步的记录。"""
    settings = GRPOConfig(
        output_dir=str(output / "trl"), num_generations=8, temperature=1.0, beta=0.0,
        reward_weights=weights, logging_steps=1, save_strategy="no", report_to="none", disable_tqdm=True,
        gradient_checkpointing=False, use_cpu=setting.device == "cpu", bf16=False, seed=0, **other,
    )
    trainer = GRPOTrainer(
        model, functions, settings, train_dataset=prompts, processing_class=tokenizer, callbacks=[keep]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    names = [function.__name__ for function in functions]
    return history.reward_steps(trainer.state.log_history, dict(zip(names, weights)))

# %% [markdown]
# **先猜一猜**：这个奖励没有上限，也不问形式。模型会怎么做？

# %% tags=["volatile"]
cheat = copy.deepcopy(policy).requires_grad_(True).train()
watched = verse_exam.questions("eval", 3, FORMS)
cheat_samples = grpo.Samples(tokenizer, watched, every=4)
hacked = train(
    cheat, [rewards.theme_word_count, rewards.verse_form], [1.0, 0.0], cheat_samples, max_steps=12,
    per_device_train_batch_size=32, max_completion_length=64, learning_rate=1e-3, lr_scheduler_type="constant",
)
hacked[["step", "reward", "verse_form", "length", "entropy"]].iloc[[0, 3, 7, 11]].round(2)

# %% tags=["volatile"]
from IPython.display import HTML

def poems(samples):
    """每隔几步，同两道题写成什么样。"""
    rows = {f"第 {step} 步": table["text"].tolist() for step, table in samples.tables.items()}
    return HTML(plots.side_by_side({"题目": [row["theme"] for row in watched], **rows}))

poems(cheat_samples)

# %% [markdown]
# 每一步看的是同两道题、同样的随机数。奖励函数说“更好了”，你的眼睛说“坏了”。把两条线画在一起：

# %% tags=["volatile"]
plots.use_course_style()
_, (upper, lower) = plt.subplots(2, 1, figsize=(7.5, 4.6), sharex=True)
plots.reward_vs_quality(
    upper, lower, hacked, "theme_word_count", {"verse_form": "形式正确"}, ("切题的字数", "回答的比例")
)
upper.set_title("奖励作弊：奖励越来越高，诗越来越少")
cheated = sit_exam(cheat)
both = pd.DataFrame({"训练前": before.mean(numeric_only=True), "作弊之后": cheated.mean(numeric_only=True)})
both.loc[["form", "rhyme", "theme", "distinct", "reward"]].round(3)

# %% [markdown]
# 看 `theme` 一行：切题的字数涨了好几倍，写到的意象种类涨了多少？这不是模型“坏”，是它太听话：你量什么，它就给什么（古德哈特定律，Goodhart's law）。奖励有两个漏洞：**没有上限**，同一个字重复就能一直加分；**不问形式**，不是诗也有分。

# %% [markdown]
# ## 6 补好奖励，再来一次
#
# 补法是一漏洞一补丁：`theme_in_form` 里每个意象只算一次（有上限 1），而且必须是一首形式正确、没有堆砌重复的诗，否则 0 分。再用四分之一的权重保住押韵。
#
# 起点和题目都不变，换掉奖励。为了看清提高，这次多练一会儿：一步 8 道题，学习率小一些，线性降到 0。

# %% tags=["volatile"]
import time

tuned = copy.deepcopy(policy).requires_grad_(True).train()
samples = grpo.Samples(tokenizer, watched, every=14)
begin, cpu = time.perf_counter(), time.process_time()
log = train(
    tuned, REWARDS, WEIGHTS, samples, max_steps=56, per_device_train_batch_size=64,
    max_completion_length=40, learning_rate=6e-4, lr_scheduler_type="linear",
)
seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
print(f"{len(log)} 步，用时 {seconds:.0f} 秒（处理器时间 {cpu:.0f} 秒），每步 {seconds / len(log):.1f} 秒")

# %% tags=["volatile"]
plots.curve(log, "reward", "补好的奖励：一批题目上的平均奖励在上升", "奖励（满分 1.25）", smooth=8);

# %% [markdown]
# 每一步抽到的题不同，所以浅色线在抖；看移动平均 (moving mean)。另有一处小心：TRL 用加权的和去学，日志里的 `reward` 一列却是不加权的和，`history.reward_steps` 已经按权重重算。再看第 1 步的损失和梯度，正是第 3 节说的那种 0：

# %% tags=["volatile"]
columns_shown = ["step", "loss", "grad_norm", "frac_reward_zero_std", "reward", "theme_in_form", "verse_rhyme"]
log[columns_shown].iloc[[0, 27, 55]].round(4)

# %% tags=["volatile"]
poems(samples)

# %% [markdown]
# ### 证据：没见过的题目
#
# 训练里的曲线是训练题上的。真正的成绩要看没见过的题目，前后配对，带上区间。

# %% tags=["volatile"]
after = sit_exam(tuned)
names = {"form": "形式", "rhyme": "押韵", "theme": "切题", "tone": "平仄",
         "in_form": "theme_in_form", "reward": "可验证的奖励（加权和）"}
for mark, name in names.items():
    print(f"{name}：{before[mark].mean():.3f} → {after[mark].mean():.3f}，变化 {verse_exam.paired_change(before, after, mark)}")
gain = verse_exam.paired_change(before, after, "reward")
share = gain.value / before["reward"].mean()
print(f"\n奖励提高了原来的 {share:.0%}；区间不含 0：{gain.excludes(0)}")

# %% tags=["volatile"]
shown = ("form", "rhyme", "theme", "good")
titles = dict(zip(shown, ("形式", "押韵", "切题", "三样都好")))
tables = {"训练前": before, "作弊的奖励": cheated, "补好的奖励": after}
marks = {name: verse_exam.mark_rates(table, shown) for name, table in tables.items()}
bars = {titles[m]: {name: marks[name][m] for name in tables} for m in shown}
plots.rates(bars, "同一份考卷：训练前、作弊、补好之后", "平均得分")
course.record(
    in_form_before=before["in_form"].mean(), in_form_after=after["in_form"].mean(), cpu_seconds=cpu,
    reward_before=before["reward"].mean(), reward_after=after["reward"].mean(),
    reward_change=gain.value, reward_change_low=gain.low, reward_change_high=gain.high,
    reward_change_share=share, seconds=seconds, steps=len(log), n=len(exam),
    **{f"{m}_before": before[m].mean() for m in (*shown, "tone")},
    **{f"{m}_after": after[m].mean() for m in (*shown, "tone")},
    hack_reward_first=hacked["theme_word_count"].iloc[0], hack_reward_last=hacked["theme_word_count"].iloc[-1],
    hack_form=cheated["form"].mean(), hack_reward=cheated["reward"].mean(),
)

# %% [markdown]
# ### 没有奖励的事，没有人守
#
# 奖励里没有的东西，模型不会替你留意。上面的样本里也许你已经看到了行间多出来的空行：验证器不计较空行，模型就不在乎。量一量三件没有写进奖励的事：

# %% tags=["volatile"]
pd.DataFrame({
    name: {
        "平仄": table["tone"].mean(),
        "不同的字": table["distinct"].mean(),
        "有空行的回答": table["text"].str.contains("\n\n").mean(),
    }
    for name, table in {"训练前": before, "训练后": after}.items()
}).round(3)

# %% [markdown]
# 要守住什么，就把它写进奖励（例如给 `verse_tone` 一点权重），或者用 KL 惩罚 (`beta`) 把模型拴在起点附近；再就是每次都**看样本**。

# %% [markdown]
# ## 7 用 ms-swift 做同一件事
#
# `swift rlhf --rlhf_type grpo` 从文件里读奖励函数：`--external_plugins` 指向一个 Python 文件，`--reward_funcs` 写函数的名字。
# 先把起点模型存成文件夹，再写一份数据：只有问题，没有答案，`form` 和 `theme` 两列会传给奖励函数。

# %%
import json

start = output / "sft_policy"
policy.save_pretrained(start)
tokenizer.save_pretrained(start)
file = output / "prompts.jsonl"
file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in verse_exam.questions("reward", 24, FORMS)), "utf-8")
print(file.read_text("utf-8").splitlines()[0])

# %% tags=["volatile"]
from lab_utils import swift

command = swift.command(
    "rlhf", rlhf_type="grpo", model=start, **swift.model_flags(models.SHIPPED), dataset=file,
    external_plugins=swift.plugin_path(), reward_funcs=["theme_in_form", "verse_rhyme"],
    reward_weights=WEIGHTS, num_generations=8, per_device_train_batch_size=16, max_steps=3,
    max_completion_length=40, temperature=1.0, learning_rate=6e-4, tuner_type="full", beta=0.0,
    torch_dtype="float32", use_vllm=False, gradient_checkpointing=False, logging_steps=1,
    save_strategy="steps", save_steps=3, save_only_model=True, split_dataset_ratio=0,
    dataloader_pin_memory=False, report_to="none", output_dir=output / "swift",
)
print(command)

# %% tags=["volatile"]
done = swift.run(command)
swift_log = history.reward_steps(done.log.to_dict("records"))
swift_log[["step", "loss", "grad_norm", "frac_reward_zero_std", "reward", "theme_in_form", "verse_rhyme"]].round(4)

# %% [markdown]
# 列名和 TRL 的一样，读法也一样；只是 ms-swift 的 `reward` 已经按权重加好（可以自己验算）。三步看不出提高，这里只证明同一个奖励函数两边都能用；要真的训练，把 `max_steps` 加大。

# %% [markdown]
# ## 8 换到 GPU：GSM8K
#
# 同样的五层奖励、同样的算法，换成 Qwen2.5-7B-Instruct 和 GSM8K 的小学应用题：每题 6 条，250 步，用 vLLM 写回答（快得多）。这一步要一张大显存的卡，这里只生成并核对设置，不运行。
#
# GSM8K 的答案写在 `####` 之后，先取出来；数据要用 `messages`，标准答案放在 `answer` 列。

# %% tags=["volatile"]
SYSTEM = "先推理，再作答，格式是：\n<reasoning>\n推理\n</reasoning>\n<answer>\n一个数\n</answer>"

def gsm8k_row(question: str, answer: str) -> dict:
    """GSM8K 的一行变成 GRPO 的一行。"""
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"messages": messages, "answer": answer.rpartition("####")[2].strip().replace(",", "")}

row = gsm8k_row("一盒铅笔 12 支，3 盒一共多少支？", "3 × 12 = 36\n#### 36")
reply = "<reasoning>\n3 × 12 = 36\n</reasoning>\n<answer>\n36\n</answer>"
print(row["answer"], [f([reply], answer=[row["answer"]])[0] for f in rewards.ARITHMETIC])
(output / "gsm8k.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", "utf-8");

# %% [markdown]
# 数据从 ModelScope 取：`MsDataset.load("modelscope/gsm8k", subset_name="main", split="train")`，每行经过 `gsm8k_row` 写进 `gsm8k.jsonl`。先是 TRL 的设置：

# %%
gsm8k = dict(
    num_generations=6, per_device_train_batch_size=6, gradient_accumulation_steps=4, max_steps=250,
    learning_rate=5e-6, warmup_steps=25, lr_scheduler_type="cosine", temperature=1.0, beta=0.0,
    max_completion_length=512, logging_steps=1, save_steps=125,
)
on_gpu = setting.device == "cuda"
big = GRPOConfig(
    output_dir="output/gsm8k", use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=0.4,
    gradient_checkpointing=True, bf16=on_gpu, use_cpu=not on_gpu, report_to="none", **gsm8k,
)
print(f"一步 {big.generation_batch_size} 条回答，{checks.prompts_per_step(6, 1, 4, 6)} 道题；"
      f"250 步一共写 {250 * big.generation_batch_size} 条")

# %% [markdown]
# 再是 ms-swift 的命令，每个参数名都已经和安装的版本核对过：

# %% tags=["volatile"]
print(swift.command(
    "rlhf", rlhf_type="grpo", model=models.entry("Qwen2.5-7B-Instruct").modelscope, dataset="gsm8k.jsonl",
    tuner_type="lora", lora_rank=16, lora_alpha=32, target_modules="all-linear", torch_dtype="bfloat16",
    external_plugins=swift.plugin_path(), reward_funcs=[f.__name__ for f in rewards.ARITHMETIC],
    use_vllm=True, vllm_mode="colocate", vllm_gpu_memory_utilization=0.4, vllm_max_model_len=1536,
    gradient_checkpointing=True, save_only_model=True, log_completions=True, output_dir="output/gsm8k", **gsm8k,
))

# %% [markdown]
# ## 小结
#
# - 奖励是程序：每条回答一个有限的数；分层给，让每一步进步都看得见。
# - 优势是和自己的同组比；全组同分就什么也学不到，`preflight` 和 `frac_reward_zero_std` 会告诉你。
# - 损失总在 0 附近，看奖励、梯度范数和样本，不看损失。
# - 奖励涨了不等于变好：没有上限、不问形式的奖励被钻了空子。补好之后，在没见过的题目上成对比较，才算证据。
#
# ## 思考题
#
# 1. `theme_in_form` 还有没有空子可钻？训练得更久，诗会变成什么样？（看看 `distinct` 和样本。）
# 2. 把 `num_generations` 从 8 改成 2，批大小不变，优势会怎样变？
# 3. 为什么第 1 节的算术题要先做 SFT，而切题不用？
# 4. 加上 `beta=0.04`，让模型不要离起点太远，作弊会消失吗？代价是什么？
#
# ## 下一步
#
# 自己写一个奖励，例如平仄，先用 `preflight` 看它有没有信号，再训练 20 步；想一想它能被怎样钻空子，然后看模型是不是真的这样做了。
