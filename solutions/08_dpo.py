# %% [markdown]
# {{card}}

# %% [markdown]
# 监督微调 (SFT) 教模型**模仿**：训练集里的每一首都当作标准答案。但“好”往往写不出标准答案，只比得出来：
# 这一首押韵，那一首不押，前一首更好。从这样的比较中学习，就是偏好对齐 (preference alignment)。
#
# 大语言模型要对齐的目标常概括成三个词 (HHH)：有用 (helpful)、诚实 (honest)、无害 (harmless)。它们都很难写成损失函数，却都能比较。
# 这一课用同样的方法对齐一件**能验证**的事：诗要合乎格式、押韵、切题。每一步都真的训练，每个结论都由验证器打分。
#
# 第 1 至 4 节走一遍 RLHF 的三个阶段（监督微调、奖励模型、强化学习），第 5 至 7 节用 DPO 一步做完同样的事，最后比较各种变体。

# %% tags=["volatile"]
import os
import time

import datasets
import torch

from lab_utils import align, course, models, plots, profile, swift
from lab_utils.evaluation import verse_exam
from lab_utils.training import history
from lab_utils.training.preference import kl_on_samples, pair_logps, save_policy
from lab_utils.training.reward_model import LikelihoodReward
from lab_utils.checks import dpo as checks

setting = profile.current()
sizes = {
    "cpu": dict(questions=200, batch=16, reward_steps=20, ppo_steps=5, dpo_steps=40, short=8),
    "gpu": dict(questions=400, batch=16, reward_steps=40, ppo_steps=40, dpo_steps=50, short=40),
}[setting.name]
output = course.output("08")
models.quiet()
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
datasets.disable_progress_bars()
print(f"配置 {setting.name}：{setting.reason}")

# %% [markdown]
# ## 1 起点：监督微调过的策略
#
# 在强化学习的语言里，会写诗的模型叫策略 (policy)，记作 $\pi(y\mid x)$：给出指令 $x$，写出诗 $y$ 的概率。起点是第 05 课微调出的策略。
#
# 把它的适配器合并 (merge) 进权重，存成一个完整的模型文件夹。下面所有的训练，不论用哪个框架，都从这份**完全相同**的权重开始。

# %% tags=["volatile"]
policy_folder = save_policy(output / "sft", models.SHIPPED, models.shipped_adapter())


def load_policy():
    """刚做完 SFT 的策略：每次都是一份新的。"""
    model, _ = models.load(str(policy_folder))
    return model.to(setting.device)


sft, tokenizer = load_policy(), models.load(str(policy_folder))[1]
print(f"{sum(p.numel() for p in sft.parameters()) / 1e6:.2f} M 参数")

# %% [markdown]
# 先考一次。`verse_exam` 出的题目，主题都没有在训练中出现过；**采样**作答，因为对齐改变的是整个分布，不只是最可能的那一首。温度 (temperature) 用两种：1.0 和 1.2。
#
# `form`：格式全对并自己停下；`rhyme`：格式对，而且偶数句全部押韵；`theme`：切题的比例；`good`：格式和押韵都对，且至少切中一半的主题；
# `distinct`：不重复的程度，一再写同样的字就低。
#
# 前 443 题（每个主题一题）在挑选超参数时用过，正式的考卷用它们之后的题，同一个主题换了一种诗体，免得自己考自己出过的题。
#
# **先猜一猜**：温度高一点，哪一项掉得最多？

# %% tags=["volatile"]
import pandas as pd

questions = verse_exam.questions("eval", 443 + sizes["questions"])[443:]
marks = ["form", "rhyme", "theme", "good", "distinct"]


def exam(model, temperature):
    """一个策略对同一份考卷的成绩，每题一行。"""
    return verse_exam.evaluate_policy(model.eval(), tokenizer, questions, temperature)


before, before_cool = exam(sft, 1.2), exam(sft, 1.0)
pd.DataFrame({"温度 1.0": before_cool[marks].mean(), "温度 1.2": before[marks].mean()}).round(3)

# %% [markdown]
# 温度 1.2 时，四成多的诗不合韵，格式也开始出错：策略知道该押韵，却不够坚定。下面以温度 1.2 为主考场：这里有提高的余地，偏好数据也在这个温度下采样。
#
# ## 2 偏好数据
#
# 一条偏好数据是同一个指令的两首诗：`chosen`（更好）和 `rejected`（更差）。课程的数据集里，两首都是**这个策略自己**采样的 (on-policy)，
# 由验证器判定：`chosen` 全对，`rejected` **只犯一种错**，`fault` 列写着是哪一种。`kind` 列说明这一对是怎么来的：
#
# - `whole`：两首各写各的；
# - `ending`：同一首诗，只有末字是在同一个温度下分别采样的。相同的部分在“差”里正好抵消，几百对能说的一点点信息，全落在韵脚上；
# - `matched`：也只差末字，但在采到的字里挑了策略认为**几乎一样可能**的两个，一个押韵，一个不押韵。
#
# 先检查再训练：对调的、相同的、重复的对，训练时都不会报错，只会教错。测试集的主题也不能出现在训练集里。

# %%
from lab_utils.data import preference

folder = course.dataset("verse_preference")
train_rows = preference.read_pairs(folder / "train.jsonl")
test_rows = preference.read_pairs(folder / "test.jsonl")
print(preference.validate_pairs(train_rows, tokenizer))
print("训练集与测试集共有的主题：", preference.leaks(train_rows, test_rows))

# %% [markdown]
# 每种各看一对，再数一数。

# %%
for kind in ("whole", "ending", "matched"):
    pair = next(row for row in train_rows if row["kind"] == kind and row["fault"] == "rhyme")
    print(f"{kind}：{pair['prompt'][0]['content']}")
    for side in ("chosen", "rejected"):
        print(f"── {side}\n{pair[side][0]['content']}")
table = pd.DataFrame(train_rows)
pd.crosstab(table["kind"], table["fault"], margins=True, margins_name="合计")

# %% [markdown]
# 一个常见的陷阱：`rejected` 用更高的温度采样，毛病自然多，配对也容易。可是这样一来，训练只要学会“像低温”就能排对，不必学押韵。所以两边的温度必须相同。

# %% [markdown]
# ## 3 RLHF 第二阶段：奖励模型
#
# 人（这里是验证器）不可能给每首诗现场打分，所以先训练一个**奖励模型** (reward model) $r(x,y)$：它读一首诗，给一个数。
#
# 只有比较、没有分数，怎么训练？Bradley-Terry 模型假设：$y_w$ 胜过 $y_l$ 的概率只取决于奖励之差，
#
# $$P(y_w\succ y_l\mid x)=\sigma\big(r(x,y_w)-r(x,y_l)\big),\qquad \mathcal L=-\log\sigma\big(r(x,y_w)-r(x,y_l)\big)$$
#
# 其中 $\sigma$ 是 sigmoid。损失就是“这次比较的结果”的负对数似然。
#
# ### 练习 1：奖励模型的损失
#
# ⏱ 约 5 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `bradley_terry_loss(rewards_chosen, rewards_rejected)`：两个张量的形状都是 `(batch,)`，每对返回一个损失。
#
# <details><summary>提示：差很大时得到 inf</summary>先 sigmoid 再取对数会下溢。torch.nn.functional 里有一个函数一步算完。</details>
# <details><summary>提示：损失是负的</summary>概率的对数不大于 0，再看看公式开头的符号。</details>

# %% exercise="bradley_terry_loss"
import torch.nn.functional as F


def bradley_terry_loss(rewards_chosen, rewards_rejected):
    """(batch,), (batch,) → 每对一个损失，(batch,)。"""
    ### BEGIN SOLUTION
    return -F.logsigmoid(rewards_chosen - rewards_rejected)
    ### END SOLUTION


# %% check="bradley_terry_loss"
checks.BRADLEY_TERRY_LOSS(bradley_terry_loss)

# %% [markdown]
# 现在真的训练一个。最常见的做法是给语言模型换一个新的头 (head)，在最后一个词元处输出一个数；新的头要从随机开始学，几百对数据不够。
# 这里沿用语言模型自己的头：在 SFT 策略上加一层 LoRA，奖励就是它比 SFT 策略更愿意写这首诗多少，
#
# $$r(x,y)=\log p(y\mid x)-\log p_\text{SFT}(y\mid x)$$
#
# 训练之前 $r$ 处处为 0，一对也分不出。损失正是上面那一个，由 TRL 的 `RewardTrainer` 来算。
#
# 所有训练共用一些参数；`train_sampling_strategy="sequential"` 让每个框架按同样的顺序看数据。

# %%
from peft import LoraConfig

lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
common = dict(
    output_dir=str(output / "trl"),
    per_device_train_batch_size=sizes["batch"],
    per_device_eval_batch_size=64,
    lr_scheduler_type="cosine",
    logging_steps=1,
    train_sampling_strategy="sequential",
    gradient_checkpointing=False,
    bf16=False,
    use_cpu=setting.device == "cpu",
    dataloader_pin_memory=False,
    save_strategy="no",
    report_to=[],
    disable_tqdm=True,
    seed=42,
)

# %% [markdown]
# 为了快，奖励模型只评绝句，用 `matched` 的对：光看策略觉得哪个字更可能，分不出高下，只有真的认得韵脚才排得对。数据写成“提示 + 回答”的文字。

# %%
from datasets import Dataset

from lab_utils.models.generation import chat_prompt


def as_text(row):
    """一对诗，写成奖励模型读的文字。"""
    prompt = chat_prompt(tokenizer, row["prompt"][0]["content"])
    return {side: prompt + row[side][0]["content"] for side in ("chosen", "rejected")}


matched = {
    split: [row for row in rows if row["kind"] == "matched" and "绝" in row["form"]]
    for split, rows in (("train", train_rows), ("test", test_rows))
}
reward_train = Dataset.from_list([as_text(row) for row in matched["train"]])
print(f"训练 {len(reward_train)} 对，测试 {len(matched['test'])} 对")

# %% tags=["volatile"]
from peft import get_peft_model
from transformers import PrinterCallback
from trl import RewardConfig, RewardTrainer

torch.manual_seed(0)
reward_model = LikelihoodReward(get_peft_model(load_policy(), lora), tokenizer)
config = RewardConfig(**common, max_steps=sizes["reward_steps"], learning_rate=1e-3, warmup_steps=4)
trainer = RewardTrainer(reward_model, config, train_dataset=reward_train, processing_class=tokenizer)
trainer.remove_callback(PrinterCallback)
began = time.perf_counter()
trainer.train()
print(f"{sizes['reward_steps']} 步，用时 {time.perf_counter() - began:.0f} 秒")

# %% [markdown]
# 一个准确率要有对照才有意义。用没见过主题的对来考，对照是训练之前的 SFT 策略：它觉得更可能的那首，当作更好的。**先猜一猜**：各能排对多少？

# %% tags=["volatile"]
from lab_utils.evaluation import intervals

trained_policy = reward_model.tokens.policy
after_rm = pair_logps(trained_policy, tokenizer, matched["test"])
before_rm = pair_logps(trained_policy, tokenizer, matched["test"], adapter=False)
ranked = {
    "SFT 策略的对数概率": before_rm[0] > before_rm[1],
    "奖励模型": after_rm[0] - before_rm[0] > after_rm[1] - before_rm[1],
}
accuracy = {name: intervals.bootstrap(right.float().tolist()) for name, right in ranked.items()}
for name, share in accuracy.items():
    print(f"{name}，排对的比例 {share}")
course.record(reward_model_accuracy=accuracy["奖励模型"].value, reward_model_pairs=len(matched["test"]))
course.record(reward_model_accuracy_untrained=accuracy["SFT 策略的对数概率"].value)

# %% [markdown]
# 对照与抛硬币差不多，这正是挑这些对的用意；训练之后明显高于它，奖励模型学到了策略的概率里看不出来的东西：哪个字押韵。

# %% [markdown]
# ## 4 RLHF 第三阶段：PPO
#
# 有了奖励模型，就让策略自己写、自己被打分、多写得分高的。目标是
#
# $$\max_\pi\;\mathbb E_{x,\,y\sim\pi}\big[r(x,y)\big]-\beta\,\mathrm{KL}\big(\pi\,\|\,\pi_\text{ref}\big)$$
#
# 第二项是缰绳：奖励模型只在 SFT 策略写得出的诗上可信，走得太远，它给的高分就不作数了。
#
# ### 练习 2：KL 怎样从样本估计
#
# ⏱ 约 5 分钟 · 难度 ★★☆
#
# 整个分布上的 KL 散度 (KL divergence) 算不出来，只能在策略写出的词元上估计。令 $r=\pi_\text{ref}/\pi$，估计量 k3 是 $r-1-\log r$：无偏，而且每一项都不小于 0。
#
# 写 `kl_k3(logps, ref_logps)`：两个张量都是 `(batch, time)` 的对数概率，每个词元返回一个数。
#
# <details><summary>提示：有的值小于 0</summary>看看 r 的分子、分母有没有颠倒，log r 前面是不是减号。</details>


# %% exercise="kl_k3"
def kl_k3(logps, ref_logps):
    """(batch, time), (batch, time) → 每个词元的 KL 估计，(batch, time)。"""
    ### BEGIN SOLUTION
    log_ratio = ref_logps - logps
    return torch.exp(log_ratio) - 1 - log_ratio
    ### END SOLUTION


# %% check="kl_k3"
checks.KL_K3(kl_k3)

# %% [markdown]
# ### 练习 3：PPO 的裁剪
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★☆
#
# 一批样本要用上好几次，但策略每更新一次，样本就旧一分。PPO 用比值 $\rho=\pi/\pi_\text{old}$ 量新旧策略差多少，超出 $[1-\epsilon,1+\epsilon]$ 就不再给好处：
#
# $$\mathcal L=-\min\big(\rho A,\;\mathrm{clip}(\rho,1-\epsilon,1+\epsilon)\,A\big)$$
#
# $A$ 是优势 (advantage)：这个词元比预期好多少。写 `ppo_clip_loss(logps, old_logps, advantages, epsilon)`，形状都是 `(batch, time)`，每个词元返回一个损失。
#
# <details><summary>提示：A 为负时不对</summary>先各自乘上 A，再取较小的。</details>


# %% exercise="ppo_clip_loss"
def ppo_clip_loss(logps, old_logps, advantages, epsilon):
    """四个参数，前三个 (batch, time) → 每个词元的损失，(batch, time)。"""
    ### BEGIN SOLUTION
    ratio = torch.exp(logps - old_logps)
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon)
    return -torch.minimum(ratio * advantages, clipped * advantages)
    ### END SOLUTION


# %% check="ppo_clip_loss"
checks.PPO_CLIP_LOSS(ppo_clip_loss)

# %% [markdown]
# 把要最大化的目标（损失的相反数）画出来。**先猜一猜**：A > 0 时曲线在哪一边变平？A < 0 时呢？

# %%
ratio = torch.linspace(0.5, 1.5, 201)
ax = plots.axes("裁剪：走得够远，就不再给好处", "比值 ρ = π / π_old", "目标 (objective)")
for sign, colour, name in ((1.0, plots.DARK, "A = +1：要更常写"), (-1.0, plots.BRIGHT, "A = -1：要更少写")):
    ax.plot(ratio, align.clipped_objective(ratio, sign * torch.ones(201), 0.2), color=colour, label=name)
ax.axvspan(0.8, 1.2, color=plots.SOFT, alpha=0.35, linewidth=0)
ax.axvline(1, color="grey", linewidth=1)
ax.text(1, -1.42, "1 - ε 到 1 + ε", ha="center")
ax.legend(frameon=False)
# %% [markdown]
# 平的地方梯度是 0：样本不再推动策略。但 A < 0 而 ρ > 1.2（坏的词元反而更常写了），目标照样往下走：走错了方向，要能拉回来。
#
# 现在真的跑几步 PPO，只写五言绝句。TRL 的 `PPOTrainer` 同时用四个模型：策略、参考、奖励、价值 (value)。策略上加一层新的 LoRA，关掉它就是参考；
# 价值模型估计“写到这里，预期能得几分”，从 SFT 策略换一个输出 0 的头开始。

# %%
import copy

from transformers import AutoModelForSequenceClassification

short_rows = [row for row in train_rows if row["form"] == "五言绝句"]
prompts = dict.fromkeys(chat_prompt(tokenizer, row["prompt"][0]["content"]) for row in short_rows)
asked = Dataset.from_list([{"input_ids": tokenizer(prompt).input_ids} for prompt in prompts])
left_padded = copy.deepcopy(tokenizer)
left_padded.padding_side = "left"
value_model = AutoModelForSequenceClassification.from_pretrained(policy_folder, num_labels=1)
torch.nn.init.zeros_(value_model.score.weight)
reward_model.eval().requires_grad_(False)
print(f"{len(asked)} 个提示")

# %% tags=["volatile"]
from trl.experimental.ppo import PPOConfig, PPOTrainer

ppo_args = common | dict(per_device_train_batch_size=16, num_ppo_epochs=2, learning_rate=1e-3)
rollout = dict(response_length=32, temperature=1.0, stop_token="eos", kl_coef=0.5, missing_eos_penalty=1.0)
config = PPOConfig(**ppo_args, **rollout, total_episodes=16 * sizes["ppo_steps"], num_sample_generations=0)
ppo = PPOTrainer(
    config,
    left_padded,
    load_policy(),
    None,
    reward_model,
    asked,
    value_model,
    eval_dataset=asked.select(range(16)),
    peft_config=lora,
)
ppo.remove_callback(PrinterCallback)
began = time.perf_counter()
ppo.train()
ppo_log = history.steps(ppo.state.log_history)
print(f"{len(ppo_log)} 步，用时 {time.perf_counter() - began:.0f} 秒")

# %% [markdown]
# 左图：奖励模型给的分；右图：离参考策略的 KL。第 1 步时两者是同一个策略，KL 正好是 0。

# %% tags=["volatile"]
import matplotlib.pyplot as plt

_, panes = plt.subplots(1, 2, figsize=(8.5, 3.2))
for ax, column, title, label in (
    (panes[0], "objective/scores", "奖励模型的分", "平均奖励"),
    (panes[1], "objective/kl", "离参考策略多远", "KL (纳特 / 首)"),
):
    ax.plot(ppo_log["step"], ppo_log[column], "o-")
    ax.set(title=title, xlabel="PPO 步数", ylabel=label)
course.record(
    ppo_score_first=ppo_log["objective/scores"].iloc[0],
    ppo_score_last=ppo_log["objective/scores"].iloc[-1],
    ppo_kl_last=ppo_log["objective/kl"].iloc[-1],
)
print(ppo_log[["objective/scores", "objective/kl", "policy/clipfrac_avg"]].round(3).to_string(index=False))

# %% [markdown]
# 奖励涨了。**先猜一猜**：诗真的变好了吗？用验证器考一次五言绝句，前后配对。

# %% tags=["volatile"]
small_exam = verse_exam.questions("eval", 100, ("五言绝句",))


def sit_small(model):
    """温度 1.0，100 道五言绝句。"""
    return verse_exam.evaluate_policy(model.eval(), tokenizer, small_exam, 1.0, max_new_tokens=40)


sft_small, ppo_small = sit_small(sft), sit_small(ppo.model.policy)
ppo_changes = {mark: verse_exam.paired_change(sft_small, ppo_small, mark) for mark in marks}
course.record(**{f"ppo_{mark}_change": value.value for mark, value in ppo_changes.items()})
pd.DataFrame({"SFT": sft_small[marks].mean(), "PPO": ppo_small[marks].mean(), "变化": ppo_changes}).round(3)

# %% [markdown]
# 奖励模型的分不是诗的分。它认得末字的好坏，对格式和切题一无所知，给别的字打的分没有意义，策略却连这些也一起优化。走得越远，空子越多，这叫过度优化 (over-optimization)。
# 所以 RLHF 要有 KL 这根缰绳，要早停，还要有奖励之外的考试。
#
# 代价也看到了：四个模型、现场采样、一串敏感的超参数。为什么用 `PPOTrainer` 而不是更简单的变体？因为 RLHF 的每个零件（价值、优势、裁剪、KL）都在里面。
# 不要价值模型的 GRPO 留给第 09 课。
#
# ## 5 DPO：把奖励模型消掉
#
# 上面的目标其实有现成的最优解。对每个 $x$，在 KL 的约束下最优的策略是
#
# $$\pi^*(y\mid x)=\frac1{Z(x)}\,\pi_\text{ref}(y\mid x)\,e^{r(x,y)/\beta}$$
#
# 反过来解出奖励：$r(x,y)=\beta\log\frac{\pi^*(y\mid x)}{\pi_\text{ref}(y\mid x)}+\beta\log Z(x)$。$Z(x)$ 算不出来，
# 但 Bradley-Terry 只看同一个 $x$ 下两个奖励之**差**，它正好消掉：
#
# $$\mathcal L_\text{DPO}=-\log\sigma\Big(\beta\log\frac{\pi(y_w\mid x)}{\pi_\text{ref}(y_w\mid x)}-\beta\log\frac{\pi(y_l\mid x)}{\pi_\text{ref}(y_l\mid x)}\Big)$$
#
# 不要奖励模型，不要采样：策略自己就是奖励模型（第 3 节的奖励正是它在 β = 1 时的样子）。$\hat r=\beta\log\frac{\pi}{\pi_\text{ref}}$ 叫隐式奖励 (implicit reward)。
#
# ### 练习 4：一首诗的对数概率
#
# ⏱ 约 10 分钟 · 难度 ★★★ · 重要 ★★★
#
# $\log\pi(y\mid x)$ 是回答里每个词元的对数概率之和。写 `sequence_logps(logits, labels)`：`logits` 是 `(batch, seq, vocab)`，
# `labels` 是 `(batch, seq)`，提示和填充处是 -100；返回 `(batch,)`。
#
# <details><summary>提示：数值都差一点</summary>第 t 位的 logits 预测的是第 t+1 个词元，要错开一位。</details>
# <details><summary>提示：IndexError 或 index out of bounds</summary>-100 不是词元的编号，取值之前先换成一个合法的编号，之后再把那些位置去掉。</details>


# %% exercise="sequence_logps"
def sequence_logps(logits, labels):
    """(batch, seq, vocab), (batch, seq) → 每行要学的词元的对数概率之和，(batch,)。"""
    ### BEGIN SOLUTION
    targets = labels[:, 1:]
    learned = targets != -100
    logps = logits[:, :-1].log_softmax(-1)
    picked = logps.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return (picked * learned).sum(-1)
    ### END SOLUTION


# %% check="sequence_logps"
checks.SEQUENCE_LOGPS(sequence_logps)

# %% [markdown]
# ### 练习 5：DPO 的损失
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)`：前四个都是 `(batch,)` 的对数概率，每对返回一个损失。
#
# **先猜一猜**：训练开始之前，策略就是参考，损失是多少？
#
# <details><summary>提示：越训练，chosen 的概率越低</summary>检查减法的方向：chosen 相对参考的上升，减去 rejected 相对参考的上升。</details>


# %% exercise="dpo_loss"
def dpo_loss(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    """每对一个 DPO 损失，(batch,)。"""
    ### BEGIN SOLUTION
    chosen = policy_chosen - ref_chosen
    rejected = policy_rejected - ref_rejected
    return -F.logsigmoid(beta * (chosen - rejected))
    ### END SOLUTION


# %% check="dpo_loss"
checks.DPO_LOSS(dpo_loss)

# %% [markdown]
# ### 练习 6：差与准确率
#
# ⏱ 约 5 分钟 · 难度 ★☆☆ · 重要 ★★☆
#
# 训练中盯着两个数：隐式奖励之差 (margin) 的平均，和差大于 0 的比例（准确率，accuracy）。写
# `reward_stats(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta)`，返回 `(平均差, 准确率)` 两个浮点数。


# %% exercise="reward_stats"
def reward_stats(policy_chosen, policy_rejected, ref_chosen, ref_rejected, beta):
    """(隐式奖励的平均差, 差大于 0 的比例)。"""
    ### BEGIN SOLUTION
    chosen = beta * (policy_chosen - ref_chosen)
    rejected = beta * (policy_rejected - ref_rejected)
    return (chosen - rejected).mean().item(), (chosen > rejected).float().mean().item()
    ### END SOLUTION


# %% check="reward_stats"
checks.REWARD_STATS(reward_stats)

# %% [markdown]
# ## 6 用 TRL 训练 DPO
#
# 训练用 `ending` 的对，四种诗体都有。每一批只放一种诗体：长短一样，就几乎不用填充 (padding)，不白算。

# %%
endings = [row for row in train_rows if row["kind"] == "ending"]
exam_rows = [row for row in test_rows if row["kind"] == "ending"][:200]
endings = preference.in_batches(endings, sizes["batch"], "form", seed=1)
columns = ["prompt", "chosen", "rejected"]
pairs_train = Dataset.from_list(endings).select_columns(columns)
print(f"训练 {len(endings)} 对，每批 {sizes['batch']} 对，{sizes['dpo_steps']} 步；测试 {len(exam_rows)} 对")

# %% [markdown]
# 给 `DPOTrainer` 一个 `peft_config`，它就在策略上加一层新的 LoRA，**不再加载**参考模型：要算参考时，把适配器关掉。

# %% tags=["volatile"]
from trl import DPOConfig, DPOTrainer

dpo_args = dict(learning_rate=1e-3, warmup_steps=4, beta=1.0, max_length=256)
config = DPOConfig(**common, **dpo_args, max_steps=sizes["dpo_steps"])
torch.manual_seed(42)
dpo = DPOTrainer(
    load_policy(), args=config, train_dataset=pairs_train, processing_class=tokenizer, peft_config=lora
)
dpo.remove_callback(PrinterCallback)
began = time.perf_counter()
dpo.train()
dpo_seconds = time.perf_counter() - began
print(f"{sizes['dpo_steps']} 步，用时 {dpo_seconds:.0f} 秒；参考模型：{dpo.ref_model}")

# %% [markdown]
# **第 0 步的损失**应当是 $-\log\sigma(0)=\ln2$，因为那时策略就是参考。

# %%
import math

dpo_log = history.steps(dpo.state.log_history)
first = dpo_log["loss"].iloc[0]
print(f"第一步更新之前的损失 {first:.4f}，ln 2 = {math.log(2):.4f}")
course.record(dpo_first_loss_trl=first)

# %% [markdown]
# **参考就是 SFT 策略**：训练完再把适配器关掉，对数概率应当与从磁盘重新加载的 SFT 策略相同。

# %% tags=["volatile"]
ref_logps = pair_logps(sft, tokenizer, exam_rows)
switched_off = pair_logps(dpo.model, tokenizer, exam_rows[:40], adapter=False)
worst = max((off - ref[:40]).abs().max().item() for off, ref in zip(switched_off, ref_logps))
print(f"关掉适配器与 SFT 策略，对数概率最大相差 {worst:.1e} 纳特")
course.record(reference_difference=worst)

# %% [markdown]
# 在没见过主题的测试对上，用和 `reward_stats` 相同的公式打分；再按诗体分开看。
#
# **先猜一猜**：绝句和律诗，哪一种的韵脚更难认？

# %% tags=["volatile"]
trl_logps = pair_logps(dpo.model, tokenizer, exam_rows)
trl_margin, trl_accuracy = checks.reward_stats(*trl_logps, *ref_logps, dpo_args["beta"])
right = (trl_logps[0] - ref_logps[0]) > (trl_logps[1] - ref_logps[1])
raw_accuracy = (ref_logps[0] > ref_logps[1]).float().mean().item()
print(f"测试集：平均差 {trl_margin:.2f}，准确率 {trl_accuracy:.1%}（{len(exam_rows)} 对）")
print(f"对照：SFT 策略的对数概率本身排对 {raw_accuracy:.1%}")
course.record(dpo_trl_accuracy=trl_accuracy, dpo_trl_margin=trl_margin, dpo_test_pairs=len(exam_rows))
course.record(dpo_accuracy_untrained=raw_accuracy)
by_form = pd.DataFrame({"诗体": [row["form"] for row in exam_rows], "准确率": right.float().tolist()})
by_form.groupby("诗体")["准确率"].agg(["mean", "count"]).round(3)

# %% [markdown]
# 隐式奖励减去了参考，训练之前处处是 0，所以准确率从 0 开始；但对照说明，这些对光看 SFT 的对数概率也能排对大半。
# 准确率高，可能只是策略更相信自己原来的判断。有没有真的变好，要看下面的采样。再问一个更难的问题：换成**整首各写各的**对，或者策略原来分不出的 `matched` 的对，它还认得出来吗？

# %% tags=["volatile"]
elsewhere = {}
for kind in ("whole", "matched"):
    some = [row for row in test_rows if row["kind"] == kind][:60]
    now, then = (pair_logps(model, tokenizer, some) for model in (dpo.model, sft))
    elsewhere[kind] = checks.reward_stats(*now, *then, dpo_args["beta"])[1]
    print(f"{kind}：准确率 {elsewhere[kind]:.1%}（{len(some)} 对）")
course.record(dpo_trl_accuracy_whole=elsewhere["whole"], dpo_trl_accuracy_matched=elsewhere["matched"])

# %% [markdown]
# 与抛硬币 (50%) 比一比。整首的对，两首各写各的，几十个字的对数概率都在变，它又没学过切题和格式，所以很难；
# 难分的对只差韵脚，要真的认得韵才排得对。准确率总要说清是**哪一种对**上的准确率。

# %% [markdown]
# ### 读曲线
#
# 三张图看训练中发生了什么。**先猜一猜**：chosen 是“更好的”，它的对数概率会上升吗？

# %% tags=["volatile"]
_, panes = plt.subplots(1, 3, figsize=(11, 3.2))
smooth = dpo_log.drop(columns="step").rolling(5, min_periods=1).mean()
panes[0].plot(dpo_log["step"], smooth["rewards/margins"])
panes[0].set(title="隐式奖励之差拉开", ylabel="平均差 (margin)")
panes[1].plot(dpo_log["step"], smooth["rewards/accuracies"])
panes[1].axhline(0.5, color="grey", linewidth=1)
panes[1].set(title="排对的比例上升", ylabel="准确率", ylim=(0, 1))
for side, colour in (("chosen", plots.DARK), ("rejected", plots.BRIGHT)):
    panes[2].plot(dpo_log["step"], smooth[f"rewards/{side}"] / config.beta, color=colour, label=side)
panes[2].axhline(0, color="grey", linewidth=1)
panes[2].set(title="相对 SFT 的对数概率", ylabel="log π - log π_ref（纳特）")
panes[2].legend(frameon=False)
for ax in panes:
    ax.set_xlabel("优化步数")

# %% tags=["volatile"]
moved = {
    side: (new - old).mean().item() for side, new, old in zip(("chosen", "rejected"), trl_logps, ref_logps)
}
print("测试对上，对数概率的平均变化（纳特）：", {side: round(value, 2) for side, value in moved.items()})
course.record(logps_change_chosen=moved["chosen"], logps_change_rejected=moved["rejected"])

# %% [markdown]
# DPO 的损失只管**差**：rejected 降得比 chosen 多，损失就小，哪怕两条都在降。降下去的概率去了别处，去了数据里没有的诗。
# 所以准确率高不等于写得好，必须**采样**来考。
#
# ### 再考一次

# %% tags=["volatile"]
after, after_cool = exam(dpo.model, 1.2), exam(dpo.model, 1.0)
regulated = [i for i, row in enumerate(questions) if "律" in row["form"]]
groups = {
    "温度 1.2": (before, after),
    "1.2，只看律诗": (before.iloc[regulated], after.iloc[regulated]),
    "温度 1.0": (before_cool, after_cool),
}
bars = {
    name: {label: intervals.bootstrap(t["rhyme"].tolist()) for label, t in zip(("SFT", "DPO"), tables)}
    for name, tables in groups.items()
}
plots.rates(bars, "采样出的诗，格式对而且全部押韵的比例", "押韵率")

# %% [markdown]
# 同一道题前后配对，每一项的变化都带上 95% 区间。没有教的几项（格式、切题、不重复）也要看：有没有为了押韵而变坏？

# %% tags=["volatile"]
changes = {
    name: {mark: verse_exam.paired_change(old, new, mark) for mark in marks} for name, (old, new) in groups.items()
}
gain, cool = changes["温度 1.2"]["rhyme"], changes["温度 1.0"]["rhyme"]
course.record(
    exam_questions=len(questions),
    rhyme_before=before["rhyme"].mean(),
    rhyme_after_trl=after["rhyme"].mean(),
    rhyme_change=gain.value,
    rhyme_change_low=gain.low,
    rhyme_change_high=gain.high,
    rhyme_change_cool=cool.value,
    rhyme_change_cool_low=cool.low,
    rhyme_change_cool_high=cool.high,
    **{f"{mark}_change": changes["温度 1.2"][mark].value for mark in marks if mark != "rhyme"},
)
pd.DataFrame(changes).map(str)

# %% [markdown]
# 区间不含 0，才能说变好了。还要防一种假的变好：策略只是变“保守”了，与调低温度没有两样。对照 (control) 就在手边：SFT 策略在温度 1.0 的成绩。
# 温度 1.2 时涨、1.0 时不涨，多半就是变保守了；两处都涨，才像是学会了。

# %% tags=["volatile"]
shown = {"SFT，1.2": before, "SFT，1.0（对照）": before_cool, "DPO，1.2": after, "DPO，1.0": after_cool}
pd.DataFrame({name: t[marks].mean() for name, t in shown.items()}).T.round(3)

# %% [markdown]
# 编写这一课时，温度 1.2 的押韵率涨了 16 个百分点（95% 区间 8 到 24），其中律诗涨得最多：四个韵脚，处处都要坚定。温度 1.0 也涨了将近 10 个百分点，所以不只是变保守。
# 也有代价：切题掉了几个百分点，区间不含 0。偏好数据里几乎没有切题的好坏，没有教的东西就没有人守着。区间很宽，换一个数据顺序或种子，大小会差好几个百分点，方向可信，数字只是这一次的。
#
# 再看几首：同一道题，训练前后各写了什么。

# %% tags=["volatile"]
from IPython.display import HTML

differ = [i for i in range(len(questions)) if before["rhyme"][i] != after["rhyme"][i]][:4]
HTML(
    plots.side_by_side(
        {
            "指令": [questions[i]["messages"][0]["content"] for i in differ],
            "SFT": [before["text"][i] for i in differ],
            "DPO": [after["text"][i] for i in differ],
        },
        marks={"SFT": [before["rhyme"][i] for i in differ], "DPO": [after["rhyme"][i] for i in differ]},
    )
)

# %% [markdown]
# ## 7 用 SWIFT 训练 DPO
#
# 换一个框架，同样的数据、同样的权重、同样的超参数，结果应当相同。ms-swift 的数据格式不同：`messages` 的最后一轮是 chosen，另有一列 `rejected_response`。

# %% tags=["volatile"]
from lab_utils.data.jsonl import write_jsonl

swift_file = write_jsonl(output / "train_swift.jsonl", preference.to_swift(endings))
kind = swift.model_flags(models.SHIPPED)
lora_flags = dict(tuner_type="lora", lora_rank=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
same_order = dict(dataset_shuffle=False, train_dataloader_shuffle=False, split_dataset_ratio=0)
same_adam = dict(weight_decay=0.0, adam_beta2=0.999, lr_scheduler_type="cosine", seed=42)
batches = dict(per_device_train_batch_size=sizes["batch"], gradient_accumulation_steps=1)
keep = dict(logging_steps=1, save_steps=sizes["dpo_steps"], save_only_model=True, output_dir=output / "swift")

# %% tags=["volatile"]
rlhf = swift.command(
    "rlhf",
    rlhf_type="dpo",
    model=policy_folder,
    dataset=swift_file,
    max_steps=sizes["dpo_steps"],
    torch_dtype="float32",
    gradient_checkpointing=False,
    **(kind | lora_flags | dpo_args | same_order | same_adam | batches | keep),
)
print(rlhf)

# %% [markdown]
# 运行它，然后用同一套测试对和同一份考卷来量。

# %% tags=["volatile"]
trained = swift.run(rlhf)
swift_log = trained.log
first = swift_log["loss"].iloc[0]
print(f"用时 {trained.seconds:.0f} 秒；第一步更新之前的损失 {first:.4f}，ln 2 = {math.log(2):.4f}")
course.record(dpo_first_loss_swift=first)

# %% tags=["volatile"]
from peft import PeftModel

swift_policy = PeftModel.from_pretrained(load_policy(), trained.checkpoint)
swift_logps = pair_logps(swift_policy, tokenizer, exam_rows)
swift_margin, swift_accuracy = checks.reward_stats(*swift_logps, *ref_logps, dpo_args["beta"])
after_swift = exam(swift_policy, 1.2)
rows = {
    "TRL": (dpo_log["loss"].iloc[0], trl_accuracy, trl_margin, after["rhyme"].mean()),
    "SWIFT": (first, swift_accuracy, swift_margin, after_swift["rhyme"].mean()),
}
course.record(dpo_swift_accuracy=swift_accuracy, rhyme_after_swift=after_swift["rhyme"].mean())
pd.DataFrame(rows, index=["第一步的损失", "测试准确率", "平均差", "采样押韵率（温度 1.2）"]).round(4)

# %% [markdown]
# 再把两条损失曲线叠在一起看。

# %% tags=["volatile"]
ax = plots.axes("同样的数据、种子和超参数，两条曲线重合", "优化步数", "DPO 损失（纳特 / 对）")
ax.plot(dpo_log["step"], dpo_log["loss"], color=plots.DARK, linewidth=2, label="TRL")
ax.plot(swift_log["step"], swift_log["loss"], "--", color=plots.BRIGHT, label="SWIFT")
ax.axhline(math.log(2), color="grey", linewidth=1, label="ln 2")
ax.legend(frameon=False)
# %% [markdown]
# 数据的顺序、LoRA 的随机初值（种子 42）和优化器都相同，两个框架就走同一条路。任何一样不同，结果都会有出入。
#
# ## 8 β 管什么
#
# β 是缰绳的松紧。损失里是 $\sigma(\beta h)$，$h$ 是 chosen 与 rejected 相对参考的对数概率之差。β 大，$h$ 稍稍拉开，损失就小了、梯度就没了，策略停在附近；
# β 小，$h$ 要拉得很开，策略越走越远。
#
# 下面三个 β 各跑一次短的：只用五言绝句，学习率故意放大，让缰绳绷紧。**先猜一猜**：离 SFT 策略的 KL，哪一个最大？押韵率呢？

# %%
quatrains = [row for row in endings if row["form"] == "五言绝句"]
few = [row for row in exam_rows if row["form"] == "五言绝句"]
pairs_small = Dataset.from_list(quatrains).select_columns(columns)
few_ref = pair_logps(sft, tokenizer, few)
short = common | dict(max_steps=sizes["short"], learning_rate=2e-3)
print(f"训练 {len(quatrains)} 对，测试 {len(few)} 对，考卷 {len(small_exam)} 题")

# %% [markdown]
# 每次训练完量四样：测试对上的准确率、$h$、KL 和采样的成绩。KL 要在策略自己按温度 1.0 写的诗上估计，所以这份小考卷用温度 1.0。


# %% tags=["volatile"]
def judge(model):
    """短训练的成绩：准确率、h、KL，以及采样考试的几项平均。"""
    logps = pair_logps(model, tokenizer, few)
    gap, share = checks.reward_stats(*logps, *few_ref, 1.0)
    table = sit_small(model)
    kl = kl_on_samples(model, sft, tokenizer, small_exam, table["text"])
    return {"准确率": share, "h（纳特）": gap, "KL（纳特 / 首）": kl} | table[marks].mean().to_dict()


def train_small(trainer_class, config, data):
    """从 SFT 策略出发训练一次短的，返回 (成绩, 秒数)。"""
    torch.manual_seed(42)
    run = trainer_class(
        load_policy(), args=config, train_dataset=data, processing_class=tokenizer, peft_config=lora
    )
    run.remove_callback(PrinterCallback)
    began = time.perf_counter()
    run.train()
    return judge(run.model) | {"训练秒数": time.perf_counter() - began}


# %% tags=["volatile"]
sweep = {
    beta: train_small(DPOTrainer, DPOConfig(**short, beta=beta, max_length=256), pairs_small)
    for beta in (0.1, 1.0, 10.0)
}
course.record(beta_sweep={f"{beta:g}": row for beta, row in sweep.items()})
pd.DataFrame(sweep).T.drop(columns="训练秒数").rename_axis("β").round(3)

# %% tags=["volatile"]
_, panes = plt.subplots(1, 2, figsize=(8.5, 3.2))
names = [f"{beta:g}" for beta in sweep]
for ax, column, title in (
    (panes[0], "h（纳特）", "chosen 与 rejected 拉开多少"),
    (panes[1], "KL（纳特 / 首）", "离 SFT 策略多远"),
):
    ax.bar(names, [row[column] for row in sweep.values()], 0.5, color=plots.DARK)
    ax.set(title=title, xlabel="β", ylabel=column)

# %% [markdown]
# β 最大的一次，$h$ 和 KL 都明显小：缰绳绷紧了。另外两次相差不多，因为步数少，$\beta h$ 还小，损失远没有饱和；而且 Adam 按梯度的大小自己调步长，β 乘在梯度上的倍数被它抵消了。
# 押韵率的差别在这份小考卷的误差之内，看不出高下。

# %% [markdown]
# ## 9 变体：ORPO、KTO、SimPO
#
# | 方法 | 要参考模型吗 | 要成对的数据吗 | 一句话 |
# | --- | --- | --- | --- |
# | DPO | 要 | 要 | 相对参考的对数概率之差 |
# | KTO | 要 | 不要，每首标好坏 | 好的高于、坏的低于一个参考点 |
# | ORPO | 不要 | 要 | SFT 损失，加上几率比 (odds ratio) 的惩罚 |
# | SimPO | 不要 | 要 | 按长度平均的对数概率之差，超过一个间隔 γ |
#
# 各跑一次，数据、步数、学习率与上一节的 DPO 相同。KTO 把每一对拆成一好一坏两行，批大小因此加倍。

# %%
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.kto import KTOConfig, KTOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

unpaired = [
    {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
    for row in quatrains
    for side in ("chosen", "rejected")
]
whole = short | dict(remove_unused_columns=False)
simpo = dict(loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.5, beta=2.0)
variants = {
    "KTO": (
        KTOTrainer,
        KTOConfig(**whole | {"per_device_train_batch_size": 2 * sizes["batch"]}, beta=1.0),
        Dataset.from_list(unpaired),
    ),
    "ORPO": (ORPOTrainer, ORPOConfig(**whole, beta=0.5, max_length=256), pairs_small),
    "SimPO": (CPOTrainer, CPOConfig(**whole, **simpo, max_length=256), pairs_small),
}

# %% tags=["volatile"]
results = {"SFT": judge(sft), "DPO（β=1）": sweep[1.0]}
for name, (trainer_class, config, data) in variants.items():
    results[name] = train_small(trainer_class, config, data)
course.record(variants=results)
pd.DataFrame(results).T.round(3)

# %% [markdown]
# 这是一次短训练、一个种子、一种学习率，说明各方法**都跑得通、各自往哪里走**，不是排名：它们合适的学习率和 β 并不相同。没有参考模型的方法，KL 往往更大：没有缰绳。ORPO 的损失里还有一份 SFT 损失，同样的学习率对它可能太大。
#
# ## 10 换到 GPU
#
# 有显卡时，这本笔记用同样的模型训练更多步。换成 Qwen，只要换掉命令里的模型、数据和对话模板；偏好数据最好也由你自己的 SFT 策略采样。下面的命令可以直接在有显卡的机器上运行。

# %% tags=["volatile"]
big = dict(learning_rate=5e-5, warmup_ratio=0.05, beta=0.1, max_length=2048, num_train_epochs=1)
print(
    swift.command(
        "rlhf",
        rlhf_type="dpo",
        model="Qwen/Qwen2.5-7B-Instruct",
        dataset="hjh0119/shareAI-Llama3-DPO-zh-en-emoji",
        **lora_flags,
        **big,
        torch_dtype="bfloat16",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=16,
        gradient_checkpointing=True,
        output_dir="output/dpo",
    )
)

# %% [markdown]
# ## 小结
#
# - 偏好数据只说哪个更好；Bradley-Terry 把比较变成损失，奖励模型由此训练。
# - RLHF 的第三阶段在奖励和 KL 之间权衡；PPO 用裁剪防止一批旧样本把策略推得太远。
# - DPO 由同一个目标推出，把奖励模型消掉：第 0 步的损失是 ln 2，参考就是关掉适配器的 SFT 策略。
# - DPO 只管差：chosen 的对数概率也可能下降。准确率要有不训练的对照；好不好，要采样来考，配对比较，带上区间，再与调低温度比一比。
# - 同样的数据、权重、超参数，TRL 与 SWIFT 的结果相同。
#
# ## 思考题
#
# 1. 把 β 乘以 2、隐式奖励的平均差会怎样变？准确率呢？先从公式回答。
# 2. 如果 rejected 全都比 chosen 长，DPO 可能学到什么？怎样从数据里事先看出来？
# 3. KTO 不要成对的数据，什么场合下这一点最有用？
# 4. 奖励模型的准确率不到 100%。策略若继续在它上面优化几千步，会发生什么？
#
# ## 下一步
#
# 把数据里 `fault` 为 `rhyme` 的对单独拿出来训练，看押韵率和切题率各怎样变化：只奖励一件事，别的会不会变差？第 09 课换一条路：奖励直接由程序算出。
