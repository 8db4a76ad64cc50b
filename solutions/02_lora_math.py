# %% [markdown]
# {{card}}

# %% [markdown]
# 第 01 课数清了参数：一个 4096×4096 的线性层就有 1678 万个。微调 (fine-tuning) 真的需要把它们全部改一遍吗？
#
# 低秩适配 (low-rank adaptation, LoRA) 的回答是：不用。权重的改变量 $\Delta W$ 可以写成两个瘦矩阵的乘积，只训练这两个瘦矩阵。这一课分两半：
#
# 1. **低秩为什么够用**：一张照片、一张评分表、一次真正的微调，三个例子，一种数学；
# 2. **LoRA 怎么写**：亲手写出前向、计数、合并，与 peft 核对，再量一量秩 (rank) 换来了什么。

# %% [markdown]
# ## 1 一张照片：奇异值分解
#
# 灰度照片就是一个矩阵，一个像素一个数。下面是 matplotlib 自带的示例照片（公有领域），照片里是计算机先驱 Grace Hopper。

# %%
import numpy as np
import torch
from matplotlib import cbook
from PIL import Image

photo = Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)).convert("L")
image = torch.tensor(np.array(photo), dtype=torch.float64)
m, n = image.shape
print(f"{m}×{n} 的矩阵，{m * n:,} 个数")

# %% [markdown]
# 奇异值分解 (singular value decomposition, SVD) 把任何矩阵写成一列秩为 1 的矩阵之和，从最要紧的排到最不要紧的：
#
# $$A = U\Sigma V^\top = \sum_i \sigma_i\, u_i v_i^\top,\qquad \sigma_1\ge\sigma_2\ge\dots\ge 0$$
#
# $u_i$ 是一列，$v_i^\top$ 是一行，$\sigma_i$ 叫奇异值 (singular value)。只留前 k 项，就是秩为 k 的近似；要存的数从 $mn$ 个变成 $k(m+n)$ 个。
#
# ### 练习 1：秩为 k 的近似
#
# ⏱ 约 5 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `rank_k(matrix, k)`：返回与 `matrix` 一样大、秩为 k 的最好近似。用 `torch.linalg.svd(matrix, full_matrices=False)`，它返回三样：`U`、奇异值（一维，从大到小）、`Vh`（已经转置好的 $V^\top$）。
#
# <details><summary>提示：形状对不上</summary>U 的一<b>列</b>是一个方向，Vh 的一<b>行</b>是一个方向。先想清楚各自沿哪一维取前 k 个。</details>
# <details><summary>提示：奇异值是一维的，怎么乘进去</summary>一维的张量乘二维的张量，会乘到每一列上 (broadcasting)，正好是对角矩阵右乘的效果。</details>

# %% exercise="rank_k"
def rank_k(matrix: torch.Tensor, k: int) -> torch.Tensor:
    """秩为 k 的最好近似，(m, n)。"""
    ### BEGIN SOLUTION
    u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u[:, :k] * sigma[:k] @ vh[:k]
    ### END SOLUTION

# %% check="rank_k"
from lab_utils.checks import lora_math as checks

checks.RANK_K(rank_k)

# %% [markdown]
# **先猜一猜**：满秩是 512。留下几个方向，你就能认出照片上是一个人？留下几个，你看不出与原图的差别？

# %%
import matplotlib.pyplot as plt

from lab_utils import lowrank, plots

plots.use_course_style()
figure, panels = plt.subplots(1, 5, figsize=(10, 2.9))
for ax, k in zip(panels, (1, 5, 20, 60, n)):
    left, right = lowrank.truncate(image, k)
    size = f"{k * (m + n) / (m * n):.1%} 的数" if k < n else "原图"
    plots.matrix_image(ax, (left @ right).numpy(), f"k={k}：{size}", "image", like=image.numpy())

# %% [markdown]
# ### 没有更好的了
#
# 秩同为 k 的矩阵有无穷多个，SVD 给的是其中**最接近原矩阵的**，误差事先就能从奇异值算出来（Eckart–Young 定理，1936）：
#
# $$\min_{\operatorname{rank}X\le k}\lVert A-X\rVert_F=\sqrt{\textstyle\sum_{i>k}\sigma_i^2}$$
#
# 下面三样画在一起：定理算出的下界、SVD 近似的实测误差、另一种秩为 k 的办法（隔几列取一列，把整张照片投影上去）。

# %%
sigma = lowrank.spectrum(image)
total = float(sigma.norm())

def from_columns(k):
    """用均匀选出的 k 列的线性组合来近似整张照片。"""
    basis, _ = torch.linalg.qr(image[:, torch.linspace(0, n - 1, k).long()])
    return basis @ (basis.T @ image)

ranks = (1, 2, 5, 10, 20, 50, 100, 200)
bound = [lowrank.truncation_error(sigma, k) / total for k in ranks]
by_svd = [float((image - checks.rank_k(image, k)).norm()) / total for k in ranks]
by_columns = [float((image - from_columns(k)).norm()) / total for k in ranks]
print(f"下界与实测最多相差 {max(abs(a - b) for a, b in zip(bound, by_svd)):.0e}")

# %% [markdown]
# 橙点应当全部落在蓝线上，任何别的办法都只能在蓝线之上。

# %% tags=["volatile"]
ax = plots.axes("SVD 的误差正好等于下界，取列的办法更差", "秩 k", "相对误差")
ax.loglog(ranks, bound, color=plots.DARK, linewidth=2, label="下界（由奇异值算出）")
ax.loglog(ranks, by_svd, "o", color=plots.BRIGHT, label="SVD 实测")
ax.loglog(ranks, by_columns, "s--", color=plots.SOFT, label="均匀取 k 列")
ax.xaxis.set_major_formatter("{x:.0f}")
ax.set_yticks((0.03, 0.1, 0.3, 1), ("3%", "10%", "30%", "100%"))
ax.legend(frameon=False);

# %% [markdown]
# 拖动滑块，看秩、参数和误差怎样一起变。（在不能显示滑块的地方，这里是一张表。）

# %% tags=["volatile"]
from lab_utils.widgets import rank_explorer

rank_explorer(image)

# %% [markdown]
# ### 练习 2：多少个方向装得下九成
#
# ⏱ 约 5 分钟 · 难度 ★★☆ · 重要 ★★★
#
# $\sigma_i^2$ 的总和就是整个矩阵所有元素的平方和，叫它能量 (energy)。写 `rank_for_energy(singular_values, share)`：最少要几个方向，它们的能量加起来才**达到**总能量的 `share`。
#
# 例：奇异值 3、2、1，能量 9、4、1。一个方向占 9/14，不到九成；两个方向占 13/14，够了，所以返回 2。
#
# <details><summary>提示：怎么累加</summary><code>torch.cumsum</code> 给出前 1 个、前 2 个……之和。数一数其中有几个还不够。</details>

# %% exercise="rank_for_energy"
def rank_for_energy(singular_values: torch.Tensor, share: float) -> int:
    """能量达到 share 最少要几个方向。"""
    ### BEGIN SOLUTION
    energy = singular_values**2
    return int((energy.cumsum(0) < share * energy.sum()).sum()) + 1
    ### END SOLUTION

# %% check="rank_for_energy"
checks.RANK_FOR_ENERGY(rank_for_energy)

# %% [markdown]
# 照片的答案是多少？再造一个同样大小的**随机矩阵**作对照：没有结构的矩阵压得动吗？

# %%
noise = torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
for share in (0.9, 0.99, 0.999):
    k, random_k = (lowrank.rank_for_energy(s, share) for s in (sigma, lowrank.spectrum(noise)))
    error = lowrank.truncation_error(sigma, k) / total
    print(f"能量 {share:.1%}：照片 {k:3d} 个方向（相对误差 {error:.1%}），随机矩阵 {random_k} 个")

# %% [markdown]
# 低秩不是矩阵天生的性质，是**有结构**的矩阵才有的：照片里大片的背景、对称的轮廓，让许多行彼此相像。随机矩阵的行互不相像，怎么也压不动。
#
# 还要留心：能量九成听上去很多，相对误差却是 $\sqrt{1-0.9}\approx 32\%$。能量是平方，误差要开方。

# %% [markdown]
# ## 2 一张评分表：填上没有的数
#
# 第二个例子，矩阵只看得见一部分。电影评分表里，一行是一位用户，一列是一部影片，多数格子是空的。数据是 MovieLens 的格式，由程序造出，没有真实的用户和电影：每个分数是 3 种口味、用户与影片各自的偏置、再加上标准差 0.4 星的噪声。所以表背后的秩是知道的：口味占 3 个方向，两种偏置各占 1 个，一共 5 个。

# %%
from lab_utils import course
from lab_utils.ratings import als, baselines, rating_rmse, read_ratings, split_ratings

folder = course.dataset("movie_ratings")
ratings = read_ratings(folder / "ratings.csv")
people, films = ratings["user"].nunique(), ratings["item"].nunique()
print(f"{people} 人 × {films} 部，{len(ratings):,} 个评分，填了 {len(ratings) / (people * films):.0%}")
ratings.head(3)

# %% [markdown]
# 有空格的矩阵做不了 SVD。换一个办法：设每位用户有 k 个数 $p_u$（喜好），每部影片有 k 个数 $q_i$（特点），用 $p_u\cdot q_i$ 猜评分。这就是把表写成秩为 k 的乘积 $PQ^\top$，只在**有评分的格子**上算误差：
#
# $$\min_{P,Q}\sum_{(u,i)\,\text{评过}}(r_{ui}-p_u\cdot q_i)^2+\lambda\Big(\sum_u\lVert p_u\rVert^2+\sum_i\lVert q_i\rVert^2\Big)$$
#
# P 和 Q 一起解很难。但是固定 Q，每位用户就只是一个小小的线性方程组；固定 P，每部影片也是。轮流解，就是**交替最小二乘** (alternating least squares, ALS)。
#
# ### 练习 3：一位用户的一步
#
# ⏱ 约 8 分钟 · 难度 ★★☆
#
# 写 `als_user(ratings, rated, items, reg)`：固定影片的因子 `items` (影片数, k)，求一位用户的 $p$，形状 (k,)。
# `ratings` 是他的评分（已减去平均），没评过的地方是 0；`rated` 是一列 `True`/`False`，评过的是 `True`。只看他评过的影片，记作 Q 和 r，$p$ 满足
#
# $$(Q^\top Q+\lambda I)\,p=Q^\top r$$
#
# <details><summary>提示：结果偏小，接近 0</summary>没有评过的影片也进了方程，等于说他都打了平均分。先用 <code>rated</code> 选行。</details>
# <details><summary>提示：怎么解方程组</summary><code>np.linalg.solve(左边的矩阵, 右边的向量)</code>。</details>

# %% exercise="als_user"
def als_user(ratings: np.ndarray, rated: np.ndarray, items: np.ndarray, reg: float) -> np.ndarray:
    """一位用户的因子 p，(k,)。"""
    ### BEGIN SOLUTION
    q = items[rated]
    return np.linalg.solve(q.T @ q + reg * np.eye(q.shape[1]), q.T @ ratings[rated])
    ### END SOLUTION

# %% check="als_user"
checks.ALS_USER(als_user)

# %% [markdown]
# 现在对所有用户、所有影片轮流解许多轮。藏起每位用户五分之一的评分，用来考它。
#
# **先猜一猜**：秩 k 越大，训练误差越小；藏起来的那些评分呢？ALS 找得出 5 这个数吗？

# %%
train_ratings, hidden = split_ratings(ratings, 0.2)
table_ranks = (1, 2, 3, 4, 5, 6, 8, 12, 16, 24)
fits = {k: als(train_ratings, k) for k in table_ranks}
seen = [fits[k].rmse[-1] for k in table_ranks]
unseen = [rating_rmse(fits[k].predict(hidden["user"], hidden["item"]), hidden) for k in table_ranks]
baseline = baselines(train_ratings, hidden)["每部影片的均值"]
best = table_ranks[int(np.argmin(unseen))]
print(f"只用每部影片的均值：{baseline:.3f}；最好的秩 k={best}：{min(unseen):.3f}（均方根误差，单位：星）")

# %% [markdown]
# 画出来看。

# %%
ax = plots.axes("秩太小学不会，太大就记住了噪声", "秩 k", "均方根误差 (RMSE)，星")
ax.plot(table_ranks, seen, "o-", color=plots.SOFT, label="训练用的评分")
ax.plot(table_ranks, unseen, "o-", color=plots.DARK, label="藏起来的评分")
ax.axhline(baseline, color=plots.BRIGHT, linestyle="--", label="每部影片的均值")
ax.set_ylim(0, None)
ax.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.45))
course.record(als_best_rank=best, als_rmse=min(unseen), als_baseline_rmse=baseline)

# %% [markdown]
# 两个教训，后面都用得上：
#
# - 24,000 个格子只看见四分之一，低秩的假设就把藏起来的猜得比均值准得多，最合适的秩在 5 附近；
# - 秩是**容量** (capacity)。训练误差总随秩下降，没见过的数据却有一个最合适的秩，再大就过拟合 (overfitting)。真实的评分表没有这样干净的答案，秩要靠留出的数据来选。

# %% [markdown]
# ## 3 一次真正的微调：ΔW 是低秩的吗
#
# 前两个例子是铺垫，这才是正题。把课程自带的小诗模型 (xiaoshi-base) **全部参数**微调一遍，教它按指令写五言绝句，再看每个矩阵改变了多少：$\Delta W=W_\text{后}-W_\text{前}$。

# %%
from lab_utils import linear_layers, models, profile
from lab_utils.data.batches import collate, encode_rows
from lab_utils.data.jsonl import read_jsonl

base, tokenizer = models.load(models.SHIPPED)
base = base.to(profile.current().device)
rows = read_jsonl(course.dataset("verse_sft") / "train.jsonl")
rows = [row for row in rows if row["form"] == "五言绝句"]
train = encode_rows(tokenizer, rows[:-64])
held_out = encode_rows(tokenizer, rows[-64:])
print(f"训练 {len(train)} 行，留出 {len(held_out)} 行，{len(linear_layers.linear_weights(base))} 个线性层")

# %% [markdown]
# 40 步，每步 8 首诗。损失 (loss) 只算在答案上，单位是纳特 / 词元。CPU 上量的是处理器时间，不受这台机器上别的程序影响。

# %% tags=["volatile"]
import copy
import time

from lab_utils.evaluation.loss import answer_loss, held_out_loss
from lab_utils.training import loop

STEPS, BATCH = 40, 8
clock = time.process_time if base.device.type == "cpu" else time.perf_counter

def timed_training(model, learning_rate, progress=False):
    """训练，返回 (每步的损失, 留出数据的损失, 训练用的秒数)。"""
    began = clock()
    losses = loop.train(model, train, STEPS, learning_rate, BATCH, progress=progress)
    seconds = clock() - began
    return losses, held_out_loss(model, held_out), seconds

loss_base = held_out_loss(base, held_out)
full = copy.deepcopy(base).requires_grad_(True)
full_run = timed_training(full, 5e-4, progress=True)
print(f"留出数据的损失：微调前 {loss_base:.3f}，微调后 {full_run[1]:.3f}")

# %% [markdown]
# 现在拆开看。对每个线性层的 ΔW 做 SVD：多少个方向装下 90% 的能量？旁边放一个**同样形状的随机矩阵**作对照：随机矩阵的奇异值也是由大到小的，没有对照，“方向少”就没有意义。

# %% tags=["volatile"]
change = lowrank.weight_change(base, full)
table = lowrank.change_table(change, share=0.9)
table["层"] = table["name"].str.split(".").str[-2]
by_kind = table.groupby("层", sort=False)
summary = by_kind.agg(满秩=("full_rank", "first"), 最少=("rank", "min"), 中位=("rank", "median"),
                      最多=("rank", "max"), 随机矩阵=("random_rank", "first"))
summary

# %% [markdown]
# 老实说，没有传说中那么少：注意力 (attention) 的矩阵不到随机矩阵的一半，前馈网络 (FFN) 的却要一半以上。
# 看看能量是怎样累积起来的。虚线是同样形状的随机矩阵。

# %% tags=["volatile"]
ax = plots.axes("ΔW 的能量比随机矩阵集中，注意力最集中", "方向的个数 ÷ 满秩", "累积的能量")
generator = torch.Generator().manual_seed(0)
shown = {"self_attn.q_proj": ("注意力 q_proj", plots.BRIGHT), "mlp.gate_proj": ("前馈网络 gate_proj", plots.DARK)}
for part, (name, colour) in shown.items():
    matrix = change[f"model.layers.2.{part}.weight"].cpu()
    random_matrix = torch.randn(matrix.shape, generator=generator)
    for values, style, label in ((matrix, "-", f"{name}（第 3 层）"), (random_matrix, "--", "随机，同样形状")):
        energy = lowrank.energy(lowrank.spectrum(values))
        x = np.arange(1, len(energy) + 1) / len(energy)
        ax.plot(x, energy, style, color=colour, linewidth=2, label=label)
ax.axhline(0.9, color="grey", linewidth=1, linestyle=":")
ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")
ax.yaxis.set_major_formatter(lambda y, _: f"{y:.0%}")
ax.legend(frameon=False, loc="lower right");

# %% [markdown]
# ### 换一个问法：多少个方向就够**用**
#
# 能量只说数值上有多接近。真正该问的是：每层只留 ΔW 的前 k 个方向，加回基座，模型还会不会写？
#
# **先猜一猜**：每个矩阵只留 **1** 个方向（满秩是 128 或 256），微调的好处剩下几成？

# %% tags=["volatile"]
kept = (1, 2, 4, 8, 16, 64)
loss_kept = []
for k in kept:
    patched = copy.deepcopy(base)
    lowrank.apply_change(patched, change, k)
    loss_kept.append(held_out_loss(patched, held_out))
gain = loss_base - full_run[1]
for k, loss in zip(kept, loss_kept):
    print(f"k={k:3d}：损失 {loss:.3f}，保住了提升的 {(loss_base - loss) / gain:.0%}")

# %% [markdown]
# 上面只把线性层的改变加了回去，嵌入 (embedding) 和归一化用的还是基座的。画出来：

# %% tags=["volatile"]
ax = plots.axes("每层只留几个方向，就保住了几乎全部提升", "ΔW 保留的方向 k", "留出数据的损失，纳特 / 词元")
ax.axhline(loss_base, color=plots.SOFT, linewidth=2, label=f"基座 {loss_base:.2f}")
ax.axhline(full_run[1], color=plots.DARK, linewidth=2, label=f"全参数微调 {full_run[1]:.2f}")
ax.plot(kept, loss_kept, "o-", color=plots.BRIGHT, linewidth=2, label="基座 + ΔW 的前 k 个方向")
ax.set_xscale("log", base=2)
ax.set_xticks(kept, kept)
ax.legend(frameon=False)
course.record(
    loss_base=loss_base,
    loss_full=full_run[1],
    delta_rank_90={kind: [int(r) for r in group["rank"]] for kind, group in by_kind},
    delta_rank_90_random={kind: int(group["random_rank"].iloc[0]) for kind, group in by_kind},
    gain_kept={str(k): (loss_base - loss) / gain for k, loss in zip(kept, loss_kept)},
)

# %% [markdown]
# 这就是 LoRA 的底气：**有用的**改变集中在极少数方向上；其余的方向占着能量，却几乎不影响输出。
#
# 既然最后只用得着几个方向，何不从一开始就**只训练这几个方向**？

# %% [markdown]
# ## 4 LoRA：一行公式
#
# 冻结 (freeze) $W_0$，在旁边加一条窄路：先用 A 降到 r 维，再用 B 升回来。
#
# $$h=W_0x+b+\frac{\alpha}{r}\,B(Ax),\qquad A\in\mathbb R^{r\times d_\text{in}},\;B\in\mathbb R^{d_\text{out}\times r}$$
#
# A 用高斯 (Gaussian) 随机数开头，B 用零开头，所以训练的第 0 步 $BA=0$，模型与基座**完全**相同。α/r 是一个固定的缩放 (scaling)。
# （peft 默认给 A 用均匀分布的随机数；哪一种都行，要紧的是 B 为零。）
#
# ### 练习 4：LoRA 的前向
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `lora_forward(x, weight, bias, A, B, lora_alpha)`。`x` 的最后一维是 $d_\text{in}$，前面可以有任意多维；`weight` 是 ($d_\text{out}$, $d_\text{in}$)；`bias` 可能是 `None`；秩 r 从 A 的形状里读。
#
# <details><summary>提示：形状对不上</summary>公式里 x 是一列，代码里 x 的每一行是一个样本，所以写成 x @ W.T。A 和 B 同理，注意先后。</details>
# <details><summary>提示：数值差一个倍数</summary>检查 α/r：r 是 A 的哪一维？缩放乘在哪一部分上？</details>

# %% exercise="lora_forward"
def lora_forward(x, weight, bias, A, B, lora_alpha):
    """h = W₀x + b + (α/r)·B(Ax)，形状 (..., d_out)。"""
    ### BEGIN SOLUTION
    r = A.shape[0]
    h = x @ weight.T + lora_alpha / r * (x @ A.T @ B.T)
    return h if bias is None else h + bias
    ### END SOLUTION

# %% check="lora_forward"
checks.LORA_FORWARD(lora_forward)

# %% [markdown]
# ### 练习 5：省了多少参数
#
# ⏱ 约 2 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `lora_parameters(d_in, d_out, r)`：A 和 B 一共多少个数。

# %% exercise="lora_parameters"
def lora_parameters(d_in: int, d_out: int, r: int) -> int:
    """A 和 B 的参数个数。"""
    ### BEGIN SOLUTION
    return r * (d_in + d_out)
    ### END SOLUTION

# %% check="lora_parameters"
checks.LORA_PARAMETERS(lora_parameters)

# %% [markdown]
# 代入真实的模型。`params.lora_count` 按配置 (config) 把每一层都数一遍，不需要下载权重。

# %%
from lab_utils import params

one, adapter = 4096 * 4096, checks.lora_parameters(4096, 4096, 8)
print(f"一个 4096×4096 的层：{one:,} 个；r=8 的 LoRA：{adapter:,} 个，{adapter / one:.2%}")
seven = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
qwen, whole = params.lora_count("Qwen2.5-7B", 8, seven), params.count("Qwen2.5-7B").total
print(f"Qwen2.5-7B，r=8，七种线性层全加：{qwen:,} 个，{qwen / whole:.2%}")
course.record(lora_4096=adapter, lora_share_4096=adapter / one, lora_qwen25_7b=qwen)

# %% [markdown]
# ### 包成一层
#
# 前向有了，再加上冻结的原层和两个要训练的参数，就是一个完整的 `LoRALinear`。（前向用的是课程的 `lora_forward`，练习 4 通过之后可以换成自己的。）
#
# `lab_utils.lora.LoRALinear` 是同一个东西，多了参数检查、随机失活 (dropout)、合并和两个变体。给两者装上同样的 A 和 B，输出应当一样。

# %%
from lab_utils import lora

class MyLoRALinear(torch.nn.Module):
    def __init__(self, layer, r, lora_alpha):
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.A = torch.nn.Parameter(torch.randn(r, layer.in_features) / r)
        self.B = torch.nn.Parameter(torch.zeros(layer.out_features, r))
        self.lora_alpha = lora_alpha

    def forward(self, x):
        return checks.lora_forward(x, self.layer.weight, self.layer.bias, self.A, self.B, self.lora_alpha)

torch.manual_seed(0)
linear, x = torch.nn.Linear(64, 32), torch.randn(5, 64)
mine, theirs = MyLoRALinear(linear, 4, 8), lora.LoRALinear(linear, 4, 8)
with torch.no_grad():
    mine.B.normal_()
    theirs.lora_A.copy_(mine.A)
    theirs.lora_B.copy_(mine.B)
print(f"输出一样：{torch.allclose(mine(x), theirs(x), atol=1e-5)}")

# %% [markdown]
# ### 注入：把层换掉
#
# 注入 (inject) 就是在模型里把选中的线性层换成 `LoRALinear`，其余参数全部冻结。`"all-linear"` 是除输出头以外的所有线性层。

# %%
torch.manual_seed(0)
tuned = copy.deepcopy(base)
names = lora.inject(tuned, "all-linear", r=8, lora_alpha=16, init_lora_weights="gaussian")
every = sum(p.numel() for p in base.parameters())
print(f"换了 {len(names)} 层，可训练 {lora.trainable_count(tuned):,} / {every:,} 个参数")
print(tuned.model.layers[0].self_attn.q_proj)

# %% [markdown]
# **先猜一猜**：还没训练，注入前后的输出相差多少？第 0 步，A 和 B 的梯度 (gradient) 哪一个是零？

# %% tags=["volatile"]
batch = collate(held_out[:8], tokenizer.pad_token_id)
batch = {name: values.to(base.device) for name, values in batch.items()}
inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
with torch.no_grad():
    exact = torch.equal(base(**inputs).logits, tuned(**inputs).logits)
print(f"第 0 步，输出与基座逐位相等：{exact}")
answer_loss(tuned, batch).backward()
layer = tuned.model.layers[0].self_attn.q_proj
print(f"A 的梯度最大 {layer.lora_A.grad.abs().max():.1g}，B 的梯度最大 {layer.lora_B.grad.abs().max():.1g}")
course.record(step_zero_equal=exact)

# %% [markdown]
# $\partial L/\partial A$ 里乘着 $B$，B 是零，所以 A 在第 0 步没有梯度；B 的梯度里乘着 $Ax$，不是零。于是 B 先动，A 跟着动。
# 要是 A 和 B **都**从零开始，两个梯度都是零，永远学不动：这就是一个随机、一个为零的原因。

# %% [markdown]
# ## 5 秩换来了什么：现场训练
#
# 缩放有两种写法，只差一个根号：
#
# | | 缩放 $s$ | 出处 |
# | --- | --- | --- |
# | LoRA | $\alpha/r$ | Hu 等，2021 |
# | rsLoRA | $\alpha/\sqrt r$ | Kalajdzievski，2023 |
#
# 秩大了，$\alpha/r$ 会把更新压得太小，多出来的秩用不上；rsLoRA 说应当除以 $\sqrt r$。是不是这样，训练一下就知道。
# 各次训练的数据、步数、学习率、α 都相同，只改秩和缩放。
#
# **先猜一猜**：r=1 只训练不到全部参数的 0.5%，它比全参数微调差多少？

# %% tags=["volatile"]
def run_lora(r, **variant):
    """注入并训练一个 LoRA，返回 (模型, 训练的结果)。"""
    torch.manual_seed(0)
    model = copy.deepcopy(base)
    lora.inject(model, "all-linear", r, lora_alpha=16, **variant)
    return model, timed_training(model, 2e-3)

runs = {"全参数": (full, full_run)}
for r in (1, 8, 64):
    runs[f"LoRA r={r}"] = run_lora(r)
runs["rsLoRA r=64"] = run_lora(64, use_rslora=True)
runs["DoRA r=8"] = run_lora(8, use_dora=True)

# %% [markdown]
# 一张表：可训练参数的占比、损失、用时。（DoRA 是另一个变体，第 8 节讲。）

# %% tags=["volatile"]
import pandas as pd

def report(model, run):
    """表里的一行。"""
    losses, held, seconds = run
    trained = lora.trainable_count(model)
    return {
        "可训练参数": f"{trained:,}",
        "占比": f"{trained / every:.2%}",
        "前 10 步的平均损失": round(sum(losses[:10]) / 10, 3),
        "留出数据的损失": round(held, 3),
        "提升（全参数=100%）": f"{(loss_base - held) / gain:.0%}",
        "每步用时（全参数=1）": round(seconds / full_run[2], 2),
    }

pd.DataFrame({name: report(*pair) for name, pair in runs.items()}).T

# %% [markdown]
# 左图看结果，右图看过程。

# %% tags=["volatile"]
plots.use_course_style()
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
for kind, ranks, style in (("LoRA", (1, 8, 64), "o-"), ("rsLoRA", (64,), "s")):
    held = [runs[f"{kind} r={r}"][1][1] for r in ranks]
    left.plot(ranks, held, style, color=plots.BRIGHT if kind == "LoRA" else plots.DARK, label=kind)
left.axhline(full_run[1], color=plots.SOFT, linewidth=2, label="全参数微调")
left.axhline(loss_base, color="grey", linestyle=":", label="基座")
left.set(title="秩与质量：都接近全参数微调", xlabel="秩 r", ylabel="留出数据的损失，纳特 / 词元")
left.set_xscale("log", base=2)
left.set_xticks((1, 8, 64), (1, 8, 64))
left.legend(frameon=False)
lines = {"LoRA r=1": (plots.SOFT, "-"), "LoRA r=64": (plots.BRIGHT, "--"), "rsLoRA r=64": (plots.DARK, "-")}
for name, (colour, style) in lines.items():
    right.plot(range(1, 16), runs[name][1][0][:15], style, color=colour, linewidth=2, label=name)
right.set(title="前 15 步：α/r 下 r=64 与 r=1 几乎重合", xlabel="优化步数 (step)", ylabel="训练损失，纳特 / 词元")
right.legend(frameon=False);

# %% [markdown]
# 左图里几种方法相差不过百分之几。这点差别是不是运气？同一批留出的诗，一首一首地配对相减，给出区间：

# %% tags=["volatile"]
from lab_utils.evaluation import intervals

def row_losses(model):
    """每一行留出数据的损失。"""
    return [held_out_loss(model, [row]) for row in held_out]

full_rows = row_losses(full)
gaps = {}
for name in ("LoRA r=1", "LoRA r=8", "rsLoRA r=64"):
    gap = intervals.paired_difference(full_rows, row_losses(runs[name][0]))
    gaps[name] = [gap.value, gap.low, gap.high]
    print(f"{name} 减全参数：{gap.value:+.3f}（95% 区间 {gap.low:+.3f} 到 {gap.high:+.3f}）")
print(f"对照：全参数微调的提升是 {gain:.3f}")
course.record(gap_to_full=gaps)

# %% tags=["volatile"]
course.record(
    held_out_loss={name: run[1] for name, (_, run) in runs.items()},
    first_ten_steps={name: sum(run[0][:10]) / 10 for name, (_, run) in runs.items()},
    trainable={name: lora.trainable_count(model) for name, (model, _) in runs.items()},
    step_time_ratio={name: run[2] / full_run[2] for name, (_, run) in runs.items()},
)

# %% [markdown]
# 读这张表：
#
# - **LoRA ≈ 全参数**。有的区间不含 0，差别不是运气，但它只有提升的百分之二三；r=8 可训练的参数却不到全部的 4%，优化器 (optimizer) 要记的状态也同样少。（学习率是分别选的：全参数 5e-4，LoRA 2e-3。）
# - 在 α/r 之下，r=1、8、64 的前十步几乎重合：秩大了 64 倍，学得却不更快。换成 α/√r，r=64 明显快起来。
# - **时间省得不多**。前向和反向都要穿过冻结的 $W_0$，省下的只是它的权重梯度和优化器的更新；秩大了还要多算 A 和 B。LoRA 省的主要是**内存**，第 03 课会算。
# - 这个任务小：几百行数据教一种格式，r=1 就装得下。要学的东西多了，小秩可能不够；要加多少，在自己的任务上量。

# %% [markdown]
# ## 6 与 peft 相等
#
# 自己写的 LoRA 对不对，拿大家都用的 **peft** 来比。`lora.adapter_state` 用 peft 的名字给出 A 和 B，可以直接装进 peft 的模型。为了看清误差从哪里来，用双精度 (float64)。

# %%
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

ours = copy.deepcopy(runs["LoRA r=8"][0]).double().eval()
config = LoraConfig(r=8, lora_alpha=16, target_modules=seven)
theirs = get_peft_model(copy.deepcopy(base).double(), config).eval()
set_peft_model_state_dict(theirs, lora.adapter_state(ours))
with torch.no_grad():
    gap = (ours(**inputs).logits - theirs(**inputs).logits).abs().max().item()
print(f"与 peft 的输出最多相差小于 1e-10：{gap < 1e-10}")
course.record(peft_gap=gap)

# %% [markdown]
# 课程的测试还比较了 A、B 的梯度和合并后的权重，LoRA、rsLoRA、DoRA 三种都比，误差都在 1e-10 以内。

# %% [markdown]
# ## 7 合并与拆分
#
# 训练完，$W_0x+s\,B(Ax)=(W_0+s\,BA)\,x$：把 $s\,BA$ 加进 $W_0$，旁边的窄路就可以撤掉，推理时不多算一步。
#
# ### 练习 6：合并后的权重
#
# ⏱ 约 5 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `merged_weight(weight, A, B, lora_alpha, use_rslora)`：返回合并后的新权重，不要改动传入的张量。`use_rslora` 为真时缩放是 $\alpha/\sqrt r$，否则是 $\alpha/r$。
#
# <details><summary>提示：说我改动了传入的参数</summary><code>weight += …</code> 会在原地改。写成 <code>weight + …</code>。</details>

# %% exercise="merged_weight"
def merged_weight(weight, A, B, lora_alpha, use_rslora):
    """合并后的权重，(d_out, d_in)。"""
    ### BEGIN SOLUTION
    r = A.shape[0]
    scaling = lora_alpha / (r**0.5 if use_rslora else r)
    return weight + scaling * B @ A
    ### END SOLUTION

# %% check="merged_weight"
checks.MERGED_WEIGHT(merged_weight)

# %% [markdown]
# `lora.merge` 把每一层都合并，`lora.unmerge` 再减回去。**先猜一猜**：拆开之后，权重与合并前逐位相等吗？

# %% tags=["volatile"]
model = runs["LoRA r=8"][0].eval()
layer = model.model.layers[0].self_attn.q_proj
before = layer.base.weight.clone()
with torch.no_grad():
    separate = model(**inputs).logits
    lora.merge(model)
    merged_gap = (model(**inputs).logits - separate).abs().max().item()
lora.unmerge(model)
left_over = (layer.base.weight - before).abs().max().item()
print(f"合并前后，输出最多相差 {merged_gap:.1e}（输出的大小约 {separate.abs().max():.0f}）")
print(f"拆分之后，权重最多相差 {left_over:.1e}，不是 0：先加后减，浮点数会留下舍入误差")
course.record(merge_gap=merged_gap, unmerge_gap=left_over)

# %% [markdown]
# 误差在 float32 的舍入范围内。若在 16 位甚至 4 位的权重上合并，舍入要大得多，第 10 课会量。
#
# 已经合并的再合并一次，ΔW 就加了两遍，模型会悄悄变坏。所以这里不允许：

# %%
lora.merge(model)
try:
    lora.merge(model)
except RuntimeError as error:
    print(error)
lora.unmerge(model)

# %% [markdown]
# ### 合并之后还有额外的延迟吗
#
# 量三种情况：基座、没合并的 LoRA、合并后的 LoRA。轮流各跑几十次，取中位数。

# %% tags=["volatile"]
merged = copy.deepcopy(model)
lora.merge(merged)
subjects = {"基座": base, "LoRA，没合并": model, "LoRA，已合并": merged}
one_row = {name: values[:1] for name, values in inputs.items()}
spent = {name: [] for name in subjects}
with torch.no_grad():
    for _ in range(40):
        for name, subject in subjects.items():
            began = time.perf_counter()
            subject(**one_row).logits[0, -1, 0].item()
            spent[name].append(time.perf_counter() - began)
latency = {name: float(np.median(times)) for name, times in spent.items()}
ratios = {name: t / latency["基座"] for name, t in latency.items()}
course.record(latency_ratio_separate=ratios["LoRA，没合并"], latency_ratio_merged=ratios["LoRA，已合并"])

# %% [markdown]
# 以基座为 1。没合并时，每个线性层要多做两次小矩阵的乘法；模型越小，这点额外的开销占得越多。

# %% tags=["volatile"]
ax = plots.axes("合并之后，没有额外的延迟", "", "一次前向的时间（基座 = 1）")
bars = ax.bar(list(ratios), list(ratios.values()), 0.5, color=[plots.SOFT, plots.BRIGHT, plots.DARK])
ax.bar_label(bars, [f"{ratio:.2f}" for ratio in ratios.values()], padding=3)
ax.grid(axis="x", visible=False)
ax.set_ylim(0, 1.15 * max(ratios.values()));

# %% [markdown]
# ## 8 一行变体：DoRA
#
# DoRA（Liu 等，2024）把权重的每一行拆成**方向**和**长度**：方向由 LoRA 去改，长度是另一个要训练的数 $m$，每个输出一个。
#
# $$W=m\odot\frac{V}{\lVert V\rVert},\qquad V=W_0+\frac{\alpha}{r}BA$$
#
# 这里 $\lVert\cdot\rVert$ 按行求，$m$ 从 $W_0$ 各行的范数 (norm) 开始，所以第 0 步仍与基座相同。
#
# ### 练习 7：DoRA 的权重
#
# ⏱ 约 8 分钟 · 难度 ★★★
#
# 写 `dora_weight(weight, A, B, lora_alpha, magnitude)`；`magnitude` 就是 $m$，形状 ($d_\text{out}$,)。
#
# <details><summary>提示：形状不对，或者方阵上数值不对</summary>一维的张量会沿着<b>列</b>对齐。想让它一行一个，先变成一列：<code>m[:, None]</code>，范数用 <code>keepdim=True</code>。</details>

# %% exercise="dora_weight"
def dora_weight(weight, A, B, lora_alpha, magnitude):
    """DoRA 合并后的权重，(d_out, d_in)。"""
    ### BEGIN SOLUTION
    v = weight + lora_alpha / A.shape[0] * B @ A
    return magnitude[:, None] * v / v.norm(dim=1, keepdim=True)
    ### END SOLUTION

# %% check="dora_weight"
checks.DORA_WEIGHT(dora_weight)

# %% [markdown]
# 用第 5 节训练好的 DoRA 核对公式，再看看 $m$ 动了多少、多花了什么。

# %% tags=["volatile"]
layer = runs["DoRA r=8"][0].model.layers[0].self_attn.q_proj
with torch.no_grad():
    formula = checks.dora_weight(layer.base.weight, layer.lora_A, layer.lora_B, 16, layer.lora_magnitude)
    moved = (layer.lora_magnitude / layer.base.weight.norm(dim=1) - 1).abs()
extra = lora.trainable_count(runs["DoRA r=8"][0]) - lora.trainable_count(runs["LoRA r=8"][0])
print(f"公式与实现最多相差 {(formula - layer.merged_weight()).abs().max():.1e}")
print(f"m 平均变了 {moved.mean():.2%}，最多 {moved.max():.2%}；多训练 {extra:,} 个数")
print(f"每步用时是 LoRA 的 {runs['DoRA r=8'][1][2] / runs['LoRA r=8'][1][2]:.2f} 倍")

# %% [markdown]
# DoRA 只多了很少的参数，却更慢：每一步都要把整个 $V$ 算出来求范数。合并之后也只剩一个矩阵。在这个小任务上它与 LoRA 分不出高下；值不值得，要在自己的任务上量。

# %% [markdown]
# ## 小结
#
# - SVD 给出最好的低秩近似，误差由丢掉的奇异值算得出来；低秩来自结构，随机矩阵没有。
# - 微调的 ΔW 按能量看并不特别低秩，按**用处**看却是：每层一两个方向就保住大半的提升。
# - LoRA：$h=W_0x+b+s\,B(Ax)$。B 从零开始，第 0 步与基座逐位相等；参数 $r(d_\text{in}+d_\text{out})$ 个。
# - α/r 之下加秩几乎不改变学习；rsLoRA 用 α/√r，DoRA 把长度和方向分开。
# - 合并之后没有额外的延迟；拆分会留下舍入误差；合并两次是错误。
#
# ## 思考题
#
# 1. 照片的能量 99% 只要几十个方向，随机矩阵要几百个。把照片的像素随机打乱，再做 SVD，会像哪一个？（试一试，只要一行。）
# 2. rsLoRA 在 r=8 时相当于把 α/r 的学习率放大了多少倍？把 LoRA 的学习率调大，能得到同样的结果吗？
# 3. 每步用时，LoRA 为什么没有省到全参数的百分之几？从前向、反向、优化器三部分想。
# 4. r 取到 min(d_in, d_out)，LoRA 就能表示任何 ΔW。它与全参数微调还有区别吗？（提示：优化器更新的是什么。）
# 5. 一台服务器要同时服务一百个微调版本，应当合并还是不合并？
#
# ## 下一步
#
# 第 03 课：把冻结的 $W_0$ 也压小，用 4 位存它，就是 QLoRA；再算清训练到底要多少内存。
