# %% [markdown]
# {{card}}

# %% [markdown]
# “7B 模型”的 7B 是 70 亿个**参数** (parameter)。它们在哪里？为什么是 7,615,616,512 这样一个数，而不是正好 70 亿？
#
# 这一课从一个 72 个参数的小网络开始，亲手让它们动一步；然后一部分一部分地写出大语言模型的参数量，最后与四个真实模型的总数**一个不差**。
# 后面每一课都会用到这些数：LoRA 只训练其中多少（第 02 课），量化省下多少、训练要多少显存（第 03 课）。

# %% [markdown]
# ## 1 什么是参数
#
# 一个线性层 (linear layer) 把 $d_\text{in}$ 个数变成 $d_\text{out}$ 个数：
#
# $$y = Wx + b$$
#
# $W$ 是权重 (weight)，有 $d_\text{out}$ 行 $d_\text{in}$ 列；$b$ 是偏置 (bias)，每个输出一个。训练能改动的就是它们，所以它们叫参数；$x$ 和 $y$ 是流过去的数据，不是参数。
#
# ### 练习 1：一个线性层有多少参数
#
# ⏱ 约 2 分钟 · 难度 ★☆☆
#
# 写 `linear_params(d_in, d_out, bias)`：`bias` 是 `True` 或 `False`，没有偏置的层只有 $W$。

# %% exercise="linear_params"
def linear_params(d_in: int, d_out: int, bias: bool) -> int:
    """线性层的参数个数。"""
    ### BEGIN SOLUTION
    return d_in * d_out + (d_out if bias else 0)
    ### END SOLUTION

# %% check="linear_params"
from lab_utils.checks import parameters as checks

checks.LINEAR_PARAMS(linear_params)

# %% [markdown]
# 两个线性层叠起来，中间夹一个激活函数 (activation) ReLU，就是最小的神经网络：4 个输入，10 个中间值，2 个输出。
#
# **先猜一猜**：它一共有多少个参数？ReLU 有参数吗？

# %%
import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2)).double()
for name, weight in network.named_parameters():
    print(f"{name:9s} 形状 {str(tuple(weight.shape)):8s} {weight.numel():3d} 个")
print("合计", sum(weight.numel() for weight in network.parameters()))

# %% [markdown]
# 40 + 10 + 20 + 2 = **72**。ReLU 只是把负数变成 0，没有参数。
#
# ## 2 训练怎样改动参数
#
# 训练的每一步做三件事：
#
# 1. **损失** (loss)：现在错了多少，这里用均方误差 (mean squared error, MSE)；
# 2. **反向传播** (backward)：每个参数往大调一点点，损失会变多少，这个数叫梯度 (gradient)；
# 3. **更新** (step)：每个参数往让损失变小的方向走一小步，步长由学习率 (learning rate) $\eta$ 决定。
#
# 先看一层 $\hat y = xW^\top + b$，$x$ 的每一行是一个样本。损失是所有 $N = n \times d_\text{out}$ 个误差平方的平均，求导得到：
#
# $$g = \frac{2}{N}(\hat y - y),\qquad \frac{\partial L}{\partial W} = g^\top x,\qquad \frac{\partial L}{\partial b} = \sum_\text{行} g$$
#
# ### 练习 2：亲手走一步
#
# ⏱ 约 10 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `hand_step(x, y, w, b, lr)`：不用 autograd，按上面的公式走一步，返回新的 `(w, b)`。不要改动传入的 `w` 和 `b`。
#
# <details><summary>提示：报错说形状 (shape) 不合</summary>梯度和参数的形状相同：<code>w</code> 是 (d_out, d_in)，所以是 <code>g.T @ x</code>。</details>
# <details><summary>提示：说我改动了传入的参数</summary><code>w -= …</code> 会写进原来的张量；写成 <code>w - …</code> 得到一个新的。</details>

# %% exercise="hand_step"
def hand_step(x, y, w, b, lr):
    """均方误差的一步梯度下降，返回新的 (w, b)。"""
    ### BEGIN SOLUTION
    g = 2 * (x @ w.T + b - y) / y.numel()
    return w - lr * g.T @ x, b - lr * g.sum(0)
    ### END SOLUTION

# %% check="hand_step"
checks.HAND_STEP(hand_step)

# %% [markdown]
# 层多了怎么办？从后往前，一层一层传：后一层的 $g$ 乘上它的权重，就是前一层的 $g$；经过 ReLU 时，当时被变成 0 的位置不传。这就是“反向”传播。
#
# 下面用它手算 72 个参数的梯度，再让 PyTorch 的自动求导 (autograd) 算一遍。

# %%
x = torch.randn(64, 4, dtype=torch.float64)
y = torch.stack([x[:, 0] * x[:, 1], x[:, 2].maximum(x[:, 3])], 1)
w1, b1, w2, b2 = (weight.detach() for weight in network.parameters())

h = (x @ w1.T + b1).relu()
g2 = 2 * (h @ w2.T + b2 - y) / y.numel()
g1 = (g2 @ w2) * (h > 0)
by_hand = [g1.T @ x, g1.sum(0), g2.T @ h, g2.sum(0)]

# %%
loss = nn.functional.mse_loss(network(x), y)
loss.backward()
for (name, weight), gradient in zip(network.named_parameters(), by_hand):
    print(f"{name:9s} 手算与 autograd 相等：{torch.allclose(weight.grad, gradient, rtol=0, atol=1e-12)}")

# %% [markdown]
# 72 个梯度全部相等。autograd 没有魔法，它替我们做的就是上面那四行。
#
# 现在走一步，看损失有没有变小；然后一直走 1000 步。旁边再练一个中间有 40 个值的网络，它有 4×40 + 40 + 40×2 + 2 = 282 个参数。
#
# **先猜一猜**：要学的是“前两个数相乘”和“后两个数取较大的一个”。72 个参数能学到一点不差吗？

# %% tags=["volatile"]
from lab_utils import plots

def train(width: int, steps: int = 1000) -> list[float]:
    """中间有 width 个值的网络，每一步的损失。"""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(steps + 1):
        loss = nn.functional.mse_loss(model(x), y)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses

curves = {"72 个参数": train(10), "282 个参数": train(40)}
for name, losses in curves.items():
    print(f"{name}：第 0 步 {losses[0]:.3f}，第 1 步 {losses[1]:.3f}，第 1000 步 {losses[-1]:.4f}")

# %% tags=["volatile"]
ax = plots.axes("参数多的网络，损失降得更低", "优化步数 (step)", "均方误差 (MSE)，对数刻度")
for (name, losses), colour in zip(curves.items(), (plots.DARK, plots.BRIGHT)):
    ax.plot(losses, color=colour)
    ax.annotate(name, (1000, losses[-1]), (0, 8), textcoords="offset points", ha="right", color=colour)
ax.set_yscale("log")

# %% [markdown]
# 每一步都让损失变小一点，但 72 个参数渐渐降不动了，282 个参数能低好几倍。参数更多，能拟合的就更多，代价是内存和计算。大语言模型把这条路走到了几十亿。
#
# ## 3 大语言模型的参数在哪里
#
# GPT、Llama、Qwen 都是**解码器** (decoder)，骨架相同：
#
# | 部分 | 做什么 | 有几份 |
# | --- | --- | --- |
# | 嵌入 (embedding) | 词元 (token) 的编号 → 长度为 $d$ 的向量 | 1 |
# | 注意力 (attention) | 每个位置从前面的位置取信息 | 每层 1 |
# | 前馈网络 (feed-forward network, FFN) | 每个位置各自加工 | 每层 1 |
# | 归一化 (normalization) | 把数值拉回稳定的大小 | 每层 2，最后 1 |
# | 输出头 (LM head) | 向量 → 词表里每个词元的分数 | 1 |
#
# ### 嵌入
#
# 嵌入是一张 $V$ 行 $d$ 列的表，$V$ 是词表 (vocabulary) 的大小，每个词元占一行。**先猜一猜**：5 万个词元、$d = 4096$，这张表有多少参数？

# %%
with torch.device("meta"):
    table = nn.Embedding(50_000, 4096)
print(f"{table.weight.numel():,} 个参数 = {table.weight.numel() / 1e6:.1f} M")
print(f"每个参数 2 字节 (bfloat16)，占 {table.weight.numel() * 2 / 2**30:.2f} GiB")

# %% [markdown]
# 两亿多，还没有开始“思考”。注意 `torch.device("meta")`：在 `meta` 设备上，张量只有形状，没有数据，所以数多大的模型都不占内存。
#
# ### 注意力
#
# 每个位置的向量乘三个矩阵，得到查询 Q (query)、键 K (key)、值 V (value)，每一个都切成许多**头** (head)；各个头的结果拼起来，再乘输出矩阵 O。
#
# - **多头注意力** (multi-head attention, MHA)：Q、K、V 的头一样多；
# - **分组查询注意力** (grouped-query attention, GQA)：几个查询头共用一组 K 和 V，K、V 的头少得多。
#
# | 矩阵 | 输入宽度 | 输出宽度 |
# | --- | --- | --- |
# | Q | $d$ | heads × head_dim |
# | K、V | $d$ | kv_heads × head_dim |
# | O | heads × head_dim | $d$ |
#
# ### 练习 3：注意力的参数
#
# ⏱ 约 6 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `attention_params(d, heads, kv_heads, head_dim, qkv_bias)`：一层注意力的参数。`qkv_bias` 为 `True` 时，Q、K、V 有偏置；O 总没有。
#
# <details><summary>提示：Llama 对了，Qwen3 不对</summary>heads × head_dim 不一定等于 d。Qwen3-0.6B 的 d 是 1024，而 16 个头、每个 128 维，合起来是 2048。</details>

# %% exercise="attention_params"
def attention_params(d: int, heads: int, kv_heads: int, head_dim: int, qkv_bias: bool) -> int:
    """一层注意力的参数个数。"""
    ### BEGIN SOLUTION
    q, kv = heads * head_dim, kv_heads * head_dim
    biases = q + 2 * kv if qkv_bias else 0
    return d * q + 2 * d * kv + q * d + biases
    ### END SOLUTION

# %% check="attention_params"
checks.ATTENTION_PARAMS(attention_params)

# %% [markdown]
# GQA 省了多少？同样 $d = 4096$、32 个查询头，只改 KV 头的个数。

# %%
for kv_heads in (32, 8, 1):
    n = checks.attention_params(4096, 32, kv_heads, 128, False)
    full = checks.attention_params(4096, 32, 32, 128, False)
    print(f"KV 头 {kv_heads:2d} 个：一层 {n / 1e6:5.1f} M，是 MHA 的 {n / full:.0%}")

# %% [markdown]
# 参数省得不算多：Q 和 O 没有变。GQA 更大的好处不在参数：生成时要记住前面每个位置的 K 和 V（KV 缓存，KV cache），它与 KV 头的个数成正比。第 03 课会算它占多少显存。
#
# ### 前馈网络
#
# 经典的做法是放大再缩回：$d \to f \to d$，中间一个激活函数。**SwiGLU** 再加一个门 (gate)：
#
# $$\text{FFN}(x) = W_\text{down}\big(\text{SiLU}(W_\text{gate}x) \odot W_\text{up}x\big)$$
#
# $\odot$ 是逐个相乘，所以门和放大的输出一样宽。
#
# ### 练习 4：前馈网络的参数
#
# ⏱ 约 3 分钟 · 难度 ★☆☆
#
# 写 `ffn_params(d, ffn, gated)`：`ffn` 是中间的宽度 $f$，`gated` 为 `True` 表示 SwiGLU。这里的矩阵都没有偏置。

# %% exercise="ffn_params"
def ffn_params(d: int, ffn: int, gated: bool) -> int:
    """一层前馈网络的参数个数。"""
    ### BEGIN SOLUTION
    return (3 if gated else 2) * d * ffn
    ### END SOLUTION

# %% check="ffn_params"
checks.FFN_PARAMS(ffn_params)

# %% [markdown]
# **先猜一猜**：Llama-2-7B 用 SwiGLU，中间宽度是 11008 这个奇怪的数。它为什么不是 4 × 4096 = 16384？

# %%
classic = checks.ffn_params(4096, 4 * 4096, False)
llama = checks.ffn_params(4096, 11008, True)
print(f"4096 × 16384 × 2 = {classic:,} = {classic / 1e6:.1f} M")
print(f"4096 × 11008 × 3 = {llama:,} = {llama / 1e6:.1f} M，是上面的 {llama / classic:.1%}")
print(f"4d × 2/3 = {4 * 4096 * 2 / 3:.1f}，往上凑到 256 的倍数：{-(-4 * 4096 * 2 // 3 // 256) * 256}")

# %% [markdown]
# 三个矩阵代替两个，宽度就乘 2/3，让参数量不变；再凑成 256 的倍数，显卡算起来整齐。
#
# ### 归一化和输出头
#
# - **RMSNorm** 只有缩放，一处 $d$ 个参数；老式的 LayerNorm 还有平移，一处 $2d$ 个。
# - Qwen3 在每层的 Q 和 K 上各加一个归一化（QK 归一化，QK norm），作用在每个头上，各有 head_dim 个参数，所有的头共用。
# - **输出头**是一个 $d \to V$ 的线性层，没有偏置。小模型常常让它与嵌入共用一张表（共享嵌入，tied embeddings），就不再算一次。
#
# 用 `lab_utils.params` 量一量归一化和共享嵌入的分量。`params.count` 数任何 transformers 配置 (config) 的参数，权重不用下载。

# %%
from lab_utils import params

llama = params.count("Llama-2-7B")
print(f"Llama-2-7B 的 {2 * 32 + 1} 处归一化：{llama.by_component['norm']:,} 个参数，占 {llama.shares['norm']:.4%}")
tied = params.count("Qwen3-0.6B").total
untied = params.count({**params.load_config("Qwen3-0.6B").to_dict(), "tie_word_embeddings": False}).total
print(f"Qwen3-0.6B：共享 {tied:,}，不共享 {untied:,}，省了 {untied - tied:,}（{1 - tied / untied:.0%}）")

# %% [markdown]
# ## 4 从配置到总数
#
# 模型文件夹里的 `config.json` 写着所有的尺寸。看一份真的：

# %%
print((params.CONFIGS / "Qwen3-0.6B.json").read_text("utf-8"))

# %% [markdown]
# 有两件事配置里没有写，由 `model_type` 对应的代码决定：Q、K、V 有没有偏置（Qwen2.5 有），有没有 QK 归一化（Qwen3 有）。把四个真实模型的尺寸列成一张表，字段的名字都换成练习里的：

# %%
import pandas as pd

fields = "vocab d layers heads kv_heads head_dim ffn qkv_bias qk_norm tied".split()
four = {
    "Llama-2-7B": (32000, 4096, 32, 32, 32, 128, 11008, False, False, False),
    "Qwen2.5-7B": (152064, 3584, 28, 28, 4, 128, 18944, True, False, False),
    "Qwen3-0.6B": (151936, 1024, 28, 16, 8, 128, 3072, False, True, True),
    "ChatGLM3-6B": (65024, 4096, 28, 32, 2, 128, 13696, True, False, False),
}
pd.DataFrame(four, index=fields).T

# %% [markdown]
# ### 练习 5：整个模型的参数
#
# ⏱ 约 12 分钟 · 难度 ★★★ · 重要 ★★★
#
# 写 `decoder_params(...)`，十个参数就是上表的十列，前馈网络都是 SwiGLU，归一化都是 RMSNorm。四个模型的总数要**一个不差**。
#
# 注意力和前馈网络可以直接用 `checks.attention_params` 和 `checks.ffn_params`，它们是前两个练习的参考版。
#
# <details><summary>提示：差得很少</summary>看看差多少。差 d：忘了最后一个归一化；差 d 的许多倍：每层的归一化是两个；只有 Qwen3 差一点：QK 归一化。</details>
# <details><summary>提示：差几亿</summary>检查输出头：tied 为 False 时，它是另一张 V × d 的表。</details>

# %% exercise="decoder_params"
def decoder_params(vocab, d, layers, heads, kv_heads, head_dim, ffn, qkv_bias, qk_norm, tied) -> int:
    """解码器的参数总数。"""
    ### BEGIN SOLUTION
    attention = checks.attention_params(d, heads, kv_heads, head_dim, qkv_bias)
    norms = 2 * d + (2 * head_dim if qk_norm else 0)
    layer = attention + checks.ffn_params(d, ffn, True) + norms
    embedding = vocab * d
    head = 0 if tied else vocab * d
    return embedding + layers * layer + d + head
    ### END SOLUTION

# %% check="decoder_params"
checks.DECODER_PARAMS(decoder_params)

# %% [markdown]
# 公式对不对，由真实的结构说了算。下面用 transformers 把前三个模型搭在 `meta` 设备上，逐个张量数；ChatGLM3-6B 自带的代码在新版 transformers 里读不了，按它的张量清单数。

# %%
totals = {name: params.count(name).total for name in four}
for name, sizes in four.items():
    formula = checks.decoder_params(*sizes)
    print(f"{name:12s} 公式 {formula:13,}  真实 {totals[name]:13,}  {'一个不差' if formula == totals[name] else '不相等'}")

# %% [markdown]
# ### 用装进内存的模型再核对一次
#
# 上面的模型都没有权重。随课程附带的“小诗” (xiaoshi-base) 有：把它真的读进来，数张量，再看权重文件有多大。
#
# **先猜一猜**：权重文件的字节数是参数个数的几倍？

# %%
from lab_utils import models

base, _ = models.load(models.SHIPPED)
loaded = sum(weight.numel() for weight in base.parameters())
counted = params.count(models.SHIPPED)
file_bytes = (models.path(models.SHIPPED) / "model.safetensors").stat().st_size
formula = checks.decoder_params(5928, 256, 6, 4, 2, 64, 768, False, True, True)
print(f"读进来数 {loaded:,}，配置上数 {counted.total:,}，公式 {formula:,}")
print(f"权重文件 {file_bytes:,} 字节，每个参数 {file_bytes / loaded:.3f} 字节")

# %% [markdown]
# 三个数相等。文件里每个参数占的字节数，就是存它用的位数除以 8；多出来的零头是文件开头的目录（每个张量的名字和形状）。
#
# ## 5 每一部分占多少
#
# `params.count` 的结果按部分分好了。K 和 V 比 Q 小得多，前馈网络占大头。

# %%
params.count("Qwen2.5-7B").table()

# %% [markdown]
# **先猜一猜**：模型越大，嵌入占的比例越大还是越小？下图从小到大排列。

# %%
names = [models.SHIPPED, "SmolLM2-135M", "Qwen2.5-0.5B", "Qwen3-0.6B", "ChatGLM3-6B", "Llama-2-7B", "Qwen2.5-7B"]
counts = [params.count(name) for name in names]
bars = {f"{c.name}  {c.total / 1e9:.2f} B": {g: 100 * n / c.total for g, n in c.groups.items()} for c in counts}
colours = {
    "嵌入": ("嵌入", "#c9ced1"),
    "注意力": ("注意力", plots.DARK),
    "前馈网络": ("前馈网络", plots.BRIGHT),
    "输出头": ("输出头", "#6b7780"),
}
ax = plots.axes("", "", "")
ax.set_title("小模型的嵌入占两三成，大模型的只占百分之几", pad=28)
plots.stacked_shares(ax, bars, colours, "占全部参数的比例 (%)")

# %% [markdown]
# 词表的大小不随模型变，层数和宽度随模型变。所以小模型的嵌入占两三成，而且这四个都让输出头与它共享；大模型的嵌入只占百分之几，输出头另有一份也不心疼。无论大小，前馈网络都是最大的一块。归一化太少，图上看不见。
#
# ## 6 混合专家：总数与激活
#
# **混合专家** (mixture of experts, MoE) 把每层的前馈网络换成许多个“专家”，每个专家是一个小的 SwiGLU；一个路由器 (router) 给每个词元 (token) 挑几个专家。参数总数很大，但一个词元只用到其中一小部分，叫**激活参数** (active parameters)。
#
# ### 练习 6：一层混合专家
#
# ⏱ 约 5 分钟 · 难度 ★★☆
#
# 写 `moe_params(d, ffn, experts, chosen)`，返回 `(总数, 激活)`：`ffn` 是每个专家的中间宽度，一共 `experts` 个专家，每个词元选 `chosen` 个。路由器是一个 $d \to$ experts 的线性层，没有偏置。
#
# <details><summary>提示：激活的数偏小</summary>要给**所有**专家打分，才知道选谁。</details>

# %% exercise="moe_params"
def moe_params(d: int, ffn: int, experts: int, chosen: int) -> tuple[int, int]:
    """一层混合专家的 (总数, 激活)。"""
    ### BEGIN SOLUTION
    expert, router = 3 * d * ffn, experts * d
    return experts * expert + router, chosen * expert + router
    ### END SOLUTION

# %% check="moe_params"
checks.MOE_PARAMS(moe_params)

# %% [markdown]
# “一个词元只用到选中的专家”，怎么证明？没有参加计算的参数，梯度必定是 0。搭一个很小的、真的 Mixtral，送进一个词元，反向传播，看哪些专家有梯度。

# %%
from transformers import AutoModelForCausalLM

sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2)
tiny = params.load_config({"model_type": "mixtral", **sizes})
torch.manual_seed(0)
moe = AutoModelForCausalLM.from_config(tiny)
moe(input_ids=torch.tensor([[7]])).logits.square().sum().backward()
idle = 0
for name, weight in moe.named_parameters():
    if ".experts." in name:
        used = weight.grad.flatten(1).abs().sum(1) > 0
        idle += weight[~used].numel()
        print(f"{name:45s} {len(used)} 个专家里 {int(used.sum())} 个有梯度")

# %%
measured = sum(weight.numel() for weight in moe.parameters()) - idle
print(f"除去没有梯度的专家，剩下 {measured:,}；params.count 给出的激活参数 {params.count(tiny).active:,}")

# %% [markdown]
# 两个数相等（嵌入按整张表算，虽然一个词元只查其中一行）。现在看三个真实的混合专家模型，与一个普通的（稠密，dense）模型对照。每一个都在 `meta` 设备上完整地搭出来，包括 6710 亿个参数的 DeepSeek-V3。

# %%
big = [params.count(name) for name in ("Qwen2.5-7B", "Qwen3-30B-A3B", "Mixtral-8x7B", "DeepSeek-V3")]
for c in big:
    print(f"{c.name:14s} 总数 {c.total / 1e9:6.2f} B，激活 {c.active / 1e9:5.2f} B（{c.active / c.total:6.1%}）")

# %%
ax = plots.axes("混合专家：总数很大，每个词元只用一小部分", "参数量（十亿，对数刻度）", "")
rows = range(len(big))
for shift, colour, label, sizes in (
    (-0.2, plots.SOFT, "总数", [c.total / 1e9 for c in big]),
    (0.2, plots.BRIGHT, "每个词元激活", [c.active / 1e9 for c in big]),
):
    drawn = ax.barh([row + shift for row in rows], sizes, 0.38, color=colour, label=label)
    ax.bar_label(drawn, [f"{size:.1f}" for size in sizes], padding=3)
ax.set(xscale="log", xlim=(1, 2000), yticks=rows, yticklabels=[c.name for c in big])
ax.xaxis.set_major_formatter("{x:g}")
ax.legend(frameon=False, loc="upper right")
ax.invert_yaxis()

# %% [markdown]
# 激活参数决定算得快不快，总数决定要多少显存：不知道下一个词元选谁，所有的专家都得放在显存里。
#
# DeepSeek-V3 的论文报告 671 B 总数、37 B 激活，与这里一致。这里数的是主模型；它的检查点 (checkpoint) 里还有多词元预测 (multi-token prediction) 的附加模块，和路由器里不由梯度训练的校正量，没有算进来。
#
# 数这么大的模型要多少时间和内存？

# %% tags=["volatile"]
import time

import psutil

memory, start = psutil.Process().memory_info().rss, time.perf_counter()
deepseek = params.count("DeepSeek-V3")
seconds, more = time.perf_counter() - start, psutil.Process().memory_info().rss - memory
print(f"数 {deepseek.total:,} 个参数：{seconds:.2f} 秒，内存多用 {more / 1e6:.0f} MB")
print(f"真要装进内存，每个参数 2 字节，要 {deepseek.total * 2 / 2**30:,.0f} GiB")

# %% [markdown]
# ## 7 微调要动多少
#
# 全参数微调 (full fine-tuning) 每一个参数都训练。LoRA 在每个线性层旁边加两个细长的小矩阵，只训练它们：$d_\text{in} \to r \to d_\text{out}$，每层 $r(d_\text{in} + d_\text{out})$ 个。第 02 课讲为什么这样就够，这里先看数量。

# %%
from lab_utils import course

qwen = params.count("Qwen2.5-7B")
lora = params.lora_count("Qwen2.5-7B", 8, "all-linear")
print(f"Qwen2.5-7B：全部 {qwen.total:,}；LoRA（r=8，所有线性层）{lora:,}，占 {lora / qwen.total:.2%}")
course.record(
    two_layer_parameters=sum(weight.numel() for weight in network.parameters()),
    embedding_parameters=table.weight.numel(),
    ffn_parameters=classic,
    totals=totals,
    loaded_equals_count=loaded == counted.total == formula,
    shares={c.name: {part: n / c.total for part, n in c.groups.items()} for c in counts},
    active={c.name: c.active for c in big},
    lora_parameters=lora,
)

# %% [markdown]
# ## 8 拖一拖
#
# 换几个尺寸，看总数和每一部分怎样变。试试：KV 头减到 1；词表加倍；打开共享嵌入；层数减半而 $d$ 加倍，总数变大还是变小？

# %% tags=["volatile"]
from lab_utils import widgets

widgets.parameter_explorer("Qwen3-0.6B")

# %% [markdown]
# ## 小结
#
# - 参数是训练能改动的数；一步训练是“损失 → 反向传播 → 更新”，手算与 autograd 相等。
# - 解码器的参数 = 嵌入 $Vd$ + 层数 ×（注意力 + 前馈网络 + 归一化）+ 最后的归一化 + 输出头（除非共享）。四个真实模型一个不差。
# - GQA 减少的是 K 和 V；SwiGLU 用三个窄一些的矩阵代替两个宽的；共享嵌入省下一张词表；混合专家让总数很大而激活很少。
# - 前馈网络总是最大的一块；小模型的嵌入占两三成，大模型的只占百分之几。
#
# ## 思考题
#
# 1. 把 Qwen2.5-7B 的词表从 152,064 换成 32,000，会少多少参数？少了的词元要付出什么代价？
# 2. 只改一个尺寸，让 Llama-2-7B 的参数翻倍，改层数和改 $d$ 哪个“更省”？（提示：每层的参数与 $d$ 是什么关系？）
# 3. Mixtral-8x7B 的名字像是 8 × 7 = 56 B，实际是 46.7 B。少的那些在哪里？
# 4. 混合专家的激活参数很少，为什么显存并不省？
#
# ## 下一步
#
# 第 02 课：ΔW 为什么可以是低秩的，亲手写出 `LoRALinear`。
