# %% [markdown]
# {{card}}

# %% [markdown]
# 一个 7B 的模型，权重用 16 位存要 14 GB 左右；全参数训练还要梯度和优化器状态，56 GB 也不够。QLoRA 把底座压到 4 位，一张小卡就能训练。
# 压缩用的是量化 (quantization)：**用很少的几种数，代替连续的小数**。这一课从一行除法开始，把它一步步做到与 bitsandbytes 逐码相等，再算清训练要多少内存。
#
# 用两个模型的真实权重：随课程附带的小诗 (xiaoshi-base)，和 SmolLM2-135M-Instruct。

# %% tags=["volatile"]
import torch

from lab_utils import course, linear_layers, models, plots, profile, quant

setting = profile.current()
model, tokenizer = models.load(models.SHIPPED)
weights = linear_layers.linear_weights(model)
total = sum(w.numel() for w in weights.values())
print(f"配置 {setting.name}；小诗有 {len(weights)} 个线性层，一共 {total:,} 个权重")

# %% [markdown]
# ## 1 一个小数怎样变成整数
#
# 最简单的办法叫 **absmax 量化**：找到绝对值最大的权重，让它对应最大的整数，其余的按比例缩放，四舍五入。8 位有符号整数 (int8) 最大 127，于是
#
# $$\text{scale}=\frac{\max|w|}{127},\qquad \text{code}=\operatorname{round}\!\left(\frac{w}{\text{scale}}\right),\qquad \hat w=\text{code}\times\text{scale}$$
#
# 存下来的是整数 `code` 和**一个** `scale`。看六个数走一遍。

# %%
six = [0.31, -0.08, 0.02, -0.50, 0.11, 0.004]
scale = max(abs(w) for w in six) / 127
codes = [round(w / scale) for w in six]
print("权重", six)
print("编码", codes, f"  scale = {scale:.6f}")
print("还原", [round(code * scale, 4) for code in codes])

# %% [markdown]
# 误差最多是半个 scale。4 位 (int4) 也一样，只是最大的整数从 127 变成 7，一步大了 18 倍。
#
# ### 练习 1：absmax 量化
#
# ⏱ 约 8 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `absmax_quantize(weights, bits)`，返回 `(codes, scale)`：
#
# - `scale`：一步有多大，一个 `float`；最大的整数是 $2^{\text{bits}-1}-1$；
# - `codes`：`torch.int8` 的张量，形状与 `weights` 相同；
# - 全是 0 的时候编码全是 0，`scale` 是 0.0。
#
# <details><summary>提示：编码里出现了 -128</summary>最大的正编码是 127。如果除以 128，最大的权重会得到 128，放不进 int8，就绕到了 -128。</details>
# <details><summary>提示：编码普遍偏向 0</summary>直接 <code>.to(torch.int8)</code> 会把小数部分砍掉，先 <code>.round()</code>。</details>

# %% exercise="absmax_quantize"
def absmax_quantize(weights: torch.Tensor, bits: int) -> tuple[torch.Tensor, float]:
    """(int8 编码, scale)。"""
    ### BEGIN SOLUTION
    top = 2 ** (bits - 1) - 1
    scale = float(weights.abs().max()) / top
    if scale == 0:
        return torch.zeros_like(weights, dtype=torch.int8), 0.0
    return (weights / scale).round().to(torch.int8), scale
    ### END SOLUTION

# %% check="absmax_quantize"
from lab_utils.checks import quantization as checks

checks.ABSMAX_QUANTIZE(absmax_quantize)

# %% [markdown]
# 在真实的权重上试。误差用相对误差 (relative error)：误差的均方根，除以权重的均方根。
#
# **先猜一猜**：8 位换成 4 位，误差大几倍？

# %% tags=["volatile"]
def round_trip(weight, bits, block):
    """量化再还原。"""
    return quant.dequantize_int(quant.quantize_int(weight, bits, block))

down = weights["model.layers.1.mlp.down_proj"].detach()
errors = {bits: quant.relative_error(down, round_trip(down, bits, "tensor")) for bits in (8, 4)}
print(f"小诗 layers.1 的 down_proj，{tuple(down.shape)}")
print(f"int8 {errors[8]:.2%}，int4 {errors[4]:.2%}：大了 {errors[4] / errors[8]:.0f} 倍（一步大了 {127 / 7:.0f} 倍）")

# %% [markdown]
# 8 位的误差已经不小，4 位的误差接近权重本身：量化后的权重几乎认不出来了。问题不在 4 位，在 **scale**。

# %% [markdown]
# ## 2 一个离群值毁掉一切
#
# scale 由最大的那个权重决定。如果有一个离群值 (outlier) 比别人大几十倍，一步就大几十倍，其余的权重全挤在 0 附近的几个整数上。
#
# 做一个实验：256 个普通的权重，把其中**一个**换成 50 倍标准差，再量化成 int8。

# %%
calm = 0.02 * torch.randn(256, generator=torch.Generator().manual_seed(0))
spiky = calm.clone()
spiky[100] = 50 * calm.std()
others = torch.arange(256) != 100
for name, row in (("没有离群值", calm), ("有一个离群值", spiky)):
    codes = quant.quantize_int(row).codes[others]
    error = quant.relative_error(row[others], round_trip(row, 8, "tensor")[others])
    print(f"{name}：其余 255 个权重用到 {len(codes.unique()):3d} 种编码，误差 {error:.2%}")

# %% [markdown]
# 真实的模型里就有这样的权重。SmolLM2 里最极端的一层，最大的权重是标准差的几十倍。
# （这份 SmolLM2 取自一个 4 位的 GGUF 文件，展开成了 16 位；下面量的都是相对于展开之后的权重。第一次运行要转换一次，约需半分钟。）

# %% tags=["volatile"]
smol, smol_tokenizer = models.load("SmolLM2-135M-Instruct")
smol_weights = linear_layers.linear_weights(smol)
peaks = {name: float(w.detach().abs().max() / w.detach().std()) for name, w in smol_weights.items()}
worst = max(peaks, key=peaks.get)
extreme = smol_weights[worst].detach()
print(f"{worst}，{tuple(extreme.shape)}：最大的权重是标准差的 {peaks[worst]:.0f} 倍")
print(f"210 层的中位数：{sorted(peaks.values())[105]:.0f} 倍")

# %% [markdown]
# 办法很朴素：**不要让所有的权重共用一个 scale**。每行一个，或者每 64 个连续的权重一块 (block)，每块一个。离群值还在，但它只能害到自己那一块。

# %% tags=["volatile"]
print("int8 与 int4 的相对误差：")
for name, block in (("整个张量 (per tensor)", "tensor"), ("每行 (per row)", "row"), ("每 64 个 (block-wise)", 64)):
    eight, four = (quant.relative_error(extreme, round_trip(extreme, bits, block)) for bits in (8, 4))
    print(f"  {eight:6.2%}  {four:7.2%}  {name}")

# %% [markdown]
# ### 练习 2：每块的最大绝对值
#
# ⏱ 约 6 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `block_absmax(weights, block_size)`：把权重按顺序展平 (flatten)，每 `block_size` 个一块，返回每块的最大绝对值（一维张量）。最后一块可能不满，也要算。
#
# <details><summary>提示：个数除不尽，view 报错</summary>可以用 <code>split</code> 一块一块地取；也可以在末尾补 0，0 不会改变最大绝对值。</details>

# %% exercise="block_absmax"
def block_absmax(weights: torch.Tensor, block_size: int) -> torch.Tensor:
    """每块的最大绝对值。"""
    ### BEGIN SOLUTION
    return torch.stack([block.abs().max() for block in weights.reshape(-1).split(block_size)])
    ### END SOLUTION

# %% check="block_absmax"
checks.BLOCK_ABSMAX(block_absmax)

# %% [markdown]
# 块越小越准，但每块要多存一个 32 位的 absmax。**先猜一猜**：块大小从 64 降到 16，每个权重要多付多少位？

# %% tags=["volatile"]
print("块大小   位/权重   int4 相对误差")
for size in (16, 32, 64, 128, 256, 1024, 4096):
    error = quant.relative_error(down, round_trip(down, 4, size))
    print(f"{size:6d}  {quant.bits_per_parameter(4, size):8.3f}  {error:10.2%}")

# %% [markdown]
# QLoRA 选了 64，两头的折中：每个权重 4 + 32/64 = 4.5 位。

# %% [markdown]
# ## 3 均匀的刻度浪费在哪里
#
# 把每个权重除以它那一块的最大绝对值，全部落在 -1 到 1 之间。看它们怎么分布，再看 int4 的 15 个刻度 (level) 在哪里。

# %% tags=["volatile"]
every = torch.cat([w.detach().reshape(-1) for w in weights.values()])
absmax = quant.quantize_nf4(every).absmax
relative = every / absmax.repeat_interleave(64)
even = torch.arange(-7, 8) / 7
ax = plots.axes("权重挤在 0 附近，刻度却均匀", "权重 ÷ 本块最大绝对值 (weight / absmax)", "权重的个数（万）")
counts = torch.histc(relative, 60, -1, 1) / 1e4
ax.bar(torch.linspace(-1, 1, 61)[:-1], counts, 1 / 30, align="edge", color=plots.SOFT)
ax.vlines(even, 0, 1.05 * counts.max(), color=plots.DARK, linewidth=1, label="int4 的 15 个刻度")
ax.legend(framealpha=1, edgecolor="none", loc="upper right");

# %% [markdown]
# 权重近似正态分布 (normal distribution)：中间多，两头少（±1 处的两根小柱是每块自己的最大值）。均匀的刻度却一视同仁：两头的刻度几乎没有权重来用，中间的刻度太稀。
#
# **先猜一猜**：15 个刻度里，最常用的一个和最不常用的一个，用到的次数差几倍？

# %% tags=["volatile"]
def usage(codes, count):
    """每个编码被用到的比例。"""
    return torch.bincount(codes.long(), minlength=count) / len(codes)

def entropy(share):
    """平均每个编码带的信息，单位是位。"""
    return -float((share * share.clamp(min=1e-12).log2()).sum())

int4_use = usage(quant.quantize_int(every, 4, 64).codes + 7, 15)
print(f"最常用的占 {int4_use.max():.1%}，最不常用的占 {int4_use.min():.2%}，差 {int4_use.max() / int4_use.min():.0f} 倍")
print(f"付了 4 位，只带 {entropy(int4_use):.2f} 位的信息")

# %% [markdown]
# ## 4 NF4：刻度放在分位数上
#
# 如果每个刻度分到**一样多**的权重，就没有浪费。怎样放？从正态分布的分位数 (quantile) 来：把概率均匀地切开，看每一刀落在哪个值上。
# 这就是 **NF4** (4-bit NormalFloat)，QLoRA 论文 (Dettmers 等，2023) 的第一个贡献。做法：
#
# 1. 正的一边：概率从 `offset` 均匀地走向 0.5，分 8 步，取前 8 个（不取 0.5），换成分位数；
# 2. 负的一边：同样从 `offset` 走向 0.5，分 7 步，取 7 个，加负号；
# 3. 加上 0，从小到大排序，一共 16 个；
# 4. 除以最大的那个，范围就是 -1 到 1。
#
# `offset` 是 0.9677083，即 1 - (1/32 + 1/30)/2：概率 1 的分位数是无穷大，所以两端各留出大约半格。
#
# ### 练习 3：造出 16 个刻度
#
# ⏱ 约 12 分钟 · 难度 ★★★ · 重要 ★★★
#
# 写 `normal_levels(offset)`，返回 16 个数的列表。标准库的 `NormalDist().inv_cdf(p)` 给出概率 `p` 的分位数。
#
# <details><summary>提示：得到了 17 个</summary>正的 8 个，负的 7 个，加一个 0，正好 16 个。</details>
# <details><summary>提示：有两个 0</summary>0.5 的分位数就是 0。两边都要停在 0.5 **之前**，0 只单独加一次。</details>

# %% exercise="normal_levels"
from statistics import NormalDist

def normal_levels(offset: float) -> list[float]:
    """NF4 的 16 个刻度，从 -1 到 1。"""
    ### BEGIN SOLUTION
    def quantiles(count):
        step = (offset - 0.5) / count
        return [NormalDist().inv_cdf(offset - i * step) for i in range(count)]

    levels = sorted([-q for q in quantiles(7)] + [0.0] + quantiles(8))
    return [level / levels[-1] for level in levels]
    ### END SOLUTION

# %% check="normal_levels"
checks.NORMAL_LEVELS(normal_levels)

# %% [markdown]
# bitsandbytes 的表是写死的 16 个数；现在你知道它们从哪里来。比一比：

# %%
from bitsandbytes import functional as bnb

levels = quant.nf4_levels()
table = bnb.get_4bit_type("nf4", device="cpu")
print("  ".join(f"{x:.4f}" for x in levels.tolist()))
print(f"与 bitsandbytes 的表逐位相等：{torch.equal(levels, table)}")
gap = (torch.tensor(checks.normal_levels(0.9677083)) - table).abs().max()
print(f"练习 3 的公式与它差不到百万分之一：{bool(gap < 1e-6)}（双精度与单精度的差别）")

# %% [markdown]
# 下一步：每个权重除以本块的 absmax，找**最近的**刻度，记下它的序号（0 到 15）。
#
# ### 练习 4：最近的刻度
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `nearest_codes(scaled, levels)`：`scaled` 是 -1 到 1 之间的张量，`levels` 是从小到大的刻度；返回 `torch.uint8` 的序号，形状与 `scaled` 相同。
#
# <details><summary>提示：怎样一次算完</summary>可以用广播 (broadcast) 算出每个值到每个刻度的距离，再 <code>argmin</code>；更快的是 <code>torch.bucketize</code>，分界线是相邻两个刻度的中点。</details>

# %% exercise="nearest_codes"
def nearest_codes(scaled: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """最近的刻度的序号。"""
    ### BEGIN SOLUTION
    middles = (levels[:-1] + levels[1:]) / 2
    return torch.bucketize(scaled, middles).to(torch.uint8)
    ### END SOLUTION

# %% check="nearest_codes"
checks.NEAREST_CODES(nearest_codes)

# %% [markdown]
# 16 个刻度分到的权重一样多了吗？

# %% tags=["volatile"]
nf4_use = usage(quant.unpack(quant.quantize_nf4(every).codes, len(every)), 16)
ax = plots.axes("NF4 的 16 个编码用得更平均", "刻度，从小到大", "用到的比例")
ax.bar(torch.arange(15) + 0.3, int4_use, 0.4, color=plots.DARK, label=f"int4：{entropy(int4_use):.2f} 位信息")
ax.bar(torch.arange(16) - 0.1, nf4_use, 0.4, color=plots.BRIGHT, label=f"NF4：{entropy(nf4_use):.2f} 位信息")
ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
ax.set_xticks(range(16))
ax.legend(frameon=False)
course.record(int4_entropy=entropy(int4_use), nf4_entropy=entropy(nf4_use))

# %% [markdown]
# 平得多，但不完全平，两头还是少。原因可以量出来：

# %% tags=["volatile"]
spread = absmax / every.view(-1, 64).std(1)
print(f"NF4 的 ±1 对应 {NormalDist().inv_cdf(0.9677083):.2f} 个标准差 (offset 的分位数)")
print(f"真实的块里，最大值平均在 {spread.mean():.2f} 个标准差")

# %% [markdown]
# 64 个数里最大的那个，通常比 1.85 个标准差更远。除以它之后，权重就比 NF4 设想的更靠近 0 一些；块越大，差得越多。NF4 不是理论上最好的，但简单，而且够好。

# %% [markdown]
# ## 5 两个编码装进一个字节
#
# 内存最小的单位是字节 (byte)，8 位。4 位的编码要两个拼成一个字节，才真的省下一半。bitsandbytes 的顺序：**第一个编码在高 4 位，第二个在低 4 位**。
# 例如编码 1 和 2 拼成 `0x12`，即 1 × 16 + 2 = 18。
#
# ### 练习 5：打包
#
# ⏱ 约 5 分钟 · 难度 ★★☆
#
# 写 `pack_nibbles(codes)`：一维 `uint8` 的编码，两个一组装进一个字节。个数是奇数时，先在末尾补一个 **7**（NF4 里 0 的编码）。

# %% exercise="pack_nibbles"
def pack_nibbles(codes: torch.Tensor) -> torch.Tensor:
    """两个编码一个字节，第一个在高 4 位。"""
    ### BEGIN SOLUTION
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_tensor([7])])
    return (codes[0::2] << 4) | codes[1::2]
    ### END SOLUTION

# %% check="pack_nibbles"
checks.PACK_NIBBLES(pack_nibbles)

# %% [markdown]
# ### 练习 6：拆包
#
# ⏱ 约 5 分钟 · 难度 ★★☆
#
# 写 `unpack_nibbles(packed, count)`：拆回编码，只返回前 `count` 个。
#
# <details><summary>提示：顺序不对</summary>高 4 位是 <code>packed >> 4</code>，低 4 位是 <code>packed & 15</code>；两半要一个隔一个地放回去。</details>

# %% exercise="unpack_nibbles"
def unpack_nibbles(packed: torch.Tensor, count: int) -> torch.Tensor:
    """前 count 个编码。"""
    ### BEGIN SOLUTION
    return torch.stack([packed >> 4, packed & 15], dim=1).view(-1)[:count]
    ### END SOLUTION

# %% check="unpack_nibbles"
checks.UNPACK_NIBBLES(unpack_nibbles)

# %% [markdown]
# ### 逐码相等
#
# 分块、归一、找最近的刻度、打包，四步连起来就是 NF4 量化。`lab_utils.quant` 里的 `quantize_nf4` 就是这四步。
# 和 bitsandbytes 比：不是“差不多”，而是**每一个字节、每一个 absmax 都相等**，两个模型的全部线性层。

# %%
def same_as_bitsandbytes(weight):
    """编码、absmax 和还原的权重都与 bitsandbytes 相等。"""
    ours = quant.quantize_nf4(weight)
    packed, state = bnb.quantize_nf4(weight)
    back = torch.equal(quant.dequantize_nf4(ours), bnb.dequantize_nf4(packed, state))
    return torch.equal(ours.codes, packed.view(-1)) and torch.equal(ours.absmax, state.absmax) and back

for name, layers in (("小诗", weights), ("SmolLM2", smol_weights)):
    same = [same_as_bitsandbytes(w.detach()) for w in layers.values()]
    count = sum(w.numel() for w in layers.values())
    print(f"{name}：{len(same)} 个线性层里 {sum(same)} 个逐码相等，共 {count:,} 个权重")

# %% [markdown]
# ## 6 双重量化：absmax 也要存
#
# 每 64 个权重一个 32 位的 absmax，摊到每个权重是 32/64 = 0.5 位，又添了编码本身 4 位的八分之一。
# QLoRA 的第二个贡献是**双重量化** (double quantization)：把这些 absmax 再量化一次。它们都是正数，先减去平均值，再每 256 个一块，量化成 8 位。
#
# ### 练习 7：每个权重几位
#
# ⏱ 约 6 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `bits_per_parameter(block_size, double)`，返回 NF4 平均每个权重占几位，把 absmax 算进去：
#
# - 不用双重量化：每块一个 32 位的 absmax；
# - 用双重量化：每块的 absmax 占 8 位；每 **256 块**另有一个 32 位的缩放。（那个平均值每个张量只有一个，不计。）

# %% exercise="bits_per_parameter"
def bits_per_parameter(block_size: int, double: bool) -> float:
    """平均每个权重的位数。"""
    ### BEGIN SOLUTION
    if double:
        return 4 + 8 / block_size + 32 / (256 * block_size)
    return 4 + 32 / block_size
    ### END SOLUTION

# %% check="bits_per_parameter"
checks.BITS_PER_PARAMETER(bits_per_parameter)

# %% [markdown]
# 公式、实际存的字节、误差，一起看。

# %%
single = quant.quantize_nf4(down)
scales = quant.quantize_scales(single.absmax)
stored = {False: single.absmax.nbytes, True: scales.nbytes}
for double in (False, True):
    formula = quant.bits_per_parameter(4, 64, double) - 4
    print(f"双重量化 {'用' if double else '不用'}：absmax 每个权重 {formula:.3f} 位，实存 {8 * stored[double] / down.numel():.3f} 位")
saved = quant.bits_per_parameter() - quant.bits_per_parameter(double=True)
print(f"每个权重省 {saved:.3f} 位；7B 的模型省 {7e9 * saved / 8 / 1e9:.2f} GB")
course.record(absmax_bits=0.5, absmax_bits_double=quant.bits_per_parameter(double=True) - 4)

# %% [markdown]
# 实存比公式多一点点：那个平均值，4 个字节。代价呢？absmax 不准了，误差会变大多少？

# %% tags=["volatile"]
def nf4(weight, block_size=64):
    """NF4 量化再还原。"""
    return quant.dequantize_nf4(quant.quantize_nf4(weight, block_size))

def nf4_double(weight):
    """NF4 加双重量化，再还原。"""
    first = quant.quantize_nf4(weight)
    absmax = quant.dequantize_scales(quant.quantize_scales(first.absmax))
    return quant.dequantize_nf4(quant.QuantizedNF4(first.codes, absmax, first.shape, first.dtype))

print(f"NF4 {quant.relative_error(down, nf4(down)):.3%}，加双重量化 {quant.relative_error(down, nf4_double(down)):.3%}")
packed, state = bnb.quantize_nf4(down, compress_statistics=True)
same = torch.equal(scales.codes, state.absmax) and torch.equal(nf4_double(down), bnb.dequantize_nf4(packed, state))
print(f"双重量化的编码和还原的权重与 bitsandbytes 逐位相等：{same}")

# %% [markdown]
# ## 7 放在一起比
#
# 每一种办法两个数：每个权重占几位，误差多大。FP4 是另一种 4 位：像浮点数那样有符号、指数和尾数，bitsandbytes 也有，拿来作对照。
#
# **先猜一猜**：同样是 4 位、块大小 64，int4、FP4、NF4 谁的误差最小？

# %% tags=["volatile"]
def fp4(weight):
    """FP4 量化再还原，用 bitsandbytes。"""
    return bnb.dequantize_fp4(*bnb.quantize_fp4(weight)).view(weight.shape)

per_row = 32 * sum(len(w) for w in weights.values()) / total
SCHEMES = {
    "int8 每张量": (8, lambda w: round_trip(w, 8, "tensor")),
    "int8 每行": (8 + per_row, lambda w: round_trip(w, 8, "row")),
    "int8 块 64": (8.5, lambda w: round_trip(w, 8, 64)),
    "int4 每张量": (4, lambda w: round_trip(w, 4, "tensor")),
    "int4 每行": (4 + per_row, lambda w: round_trip(w, 4, "row")),
    "int4 块 64": (4.5, lambda w: round_trip(w, 4, 64)),
    "FP4 块 64": (4.5, fp4),
    "NF4 块 4096": (4 + 32 / 4096, lambda w: nf4(w, 4096)),
    "NF4 块 64": (4.5, nf4),
    "NF4 双重": (4.127, nf4_double),
}

# %% tags=["volatile"]
import pandas as pd
from IPython.display import display

def error_of(restore):
    """全部线性层的相对误差。"""
    return quant.relative_error(every, torch.cat([restore(w.detach()).view(-1) for w in weights.values()]))

scheme_errors = {name: error_of(restore) for name, (_, restore) in SCHEMES.items()}
table = pd.DataFrame({"位/权重": {k: bits for k, (bits, _) in SCHEMES.items()}, "相对误差": scheme_errors})
display(table.style.format({"位/权重": "{:.3f}", "相对误差": "{:.2%}"}))
course.record(scheme_errors=scheme_errors)

# %% [markdown]
# 画出来，从误差大的到小的：

# %% tags=["volatile"]
ax = plots.axes("同样 4 位，误差可以差四倍", "相对误差（对数刻度）", "")
order = sorted(SCHEMES, key=scheme_errors.get)
colours = [plots.BRIGHT if n.startswith("NF4") else plots.SOFT if n.startswith("int8") else plots.DARK for n in order]
bars = ax.barh([f"{n}，{SCHEMES[n][0]:.3g} 位" for n in order], [scheme_errors[n] for n in order], color=colours)
ax.bar_label(bars, [f"{scheme_errors[n]:.1%}" for n in order], padding=3, fontsize=9)
ax.set(xscale="log", xlim=(0.004, 0.6))
ax.set_xticks([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5], ["0.5%", "1%", "2%", "5%", "10%", "20%", "50%"])
ax.minorticks_off()
ax.grid(axis="y", visible=False)

# %% [markdown]
# 自己动手：换块大小，看刻度、分布和误差怎样跟着变。

# %% tags=["volatile"]
from lab_utils import widgets

widgets.nf4_explorer(down)

# %% [markdown]
# ## 8 模型变笨了吗
#
# 权重的误差不是目的，模型还好不好用才是。把小诗的全部线性层换成量化再还原的权重，让它读 32 首没有训练过的诗，看三个数：
#
# - **损失** (loss)：每个词元的平均负对数似然，越低越好；
# - **KL 散度** (KL divergence)：量化前后，对下一个词元的预测分布差多远，0 是完全一样；
# - **同选**：量化前后，最可能的下一个词元相同的比例。

# %%
from lab_utils.data.jsonl import read_jsonl

poems = read_jsonl(course.dataset("verse_sft") / "train.jsonl")[:32]
texts = [f"{p['form']}《{p['theme']}》\n{p['messages'][1]['content']}<|endoftext|>" for p in poems]
verses = tokenizer(texts, return_tensors="pt", padding=True)
print(f"{len(texts)} 首诗，{int(verses.attention_mask.sum()):,} 个词元")

@torch.no_grad()
def predictions(model, batch, restore=None):
    """每个位置对下一个词元的对数概率；线性层的权重先经过 restore。"""
    layers = linear_layers.linear_weights(model).values()
    kept = [w.data for w in layers]
    for w in layers if restore else ():
        w.data = restore(w.data)
    logp = model(**batch).logits[:, :-1].log_softmax(-1)
    for w, data in zip(layers, kept):
        w.data = data
    return logp

# %% [markdown]
# 三个数都从对数概率算出来，填充的位置不算。

# %% tags=["volatile"]
def compare(before, after, batch):
    """(损失, KL 散度, 同选的比例)。"""
    real = batch.attention_mask[:, 1:].bool()
    loss = torch.nn.functional.nll_loss(after[real], batch.input_ids[:, 1:][real])
    kl = torch.nn.functional.kl_div(after[real], before[real], reduction="batchmean", log_target=True)
    same = (before.argmax(-1) == after.argmax(-1))[real].float().mean()
    return float(loss), float(kl), float(same)

original = predictions(model, verses)
effects = {"不量化": compare(original, original, verses)}
for name in ("int8 每张量", "int8 块 64", "int4 每张量", "int4 每行", "int4 块 64", "FP4 块 64", "NF4 双重"):
    effects[name] = compare(original, predictions(model, verses, SCHEMES[name][1]), verses)
effect_table = pd.DataFrame(effects, index=["损失", "KL 散度", "同选"]).T
display(effect_table.style.format({"损失": "{:.4f}", "KL 散度": "{:.5f}", "同选": "{:.1%}"}))
course.record(kl_by_scheme=effect_table["KL 散度"].to_dict())

# %% [markdown]
# 8 位几乎没有损失。4 位每张量一个 scale，模型明显变差；分块之后就好了。
#
# 仔细看会发现，**损失**有时不按误差的大小排：权重的误差是随机的，碰巧也会把某些词元的概率推高，32 首诗分不清这么小的差别。
# **KL 散度**不靠运气，它直接量“和原来有多不一样”，顺序就与误差一致：NF4 最小。

# %% [markdown]
# ### 换一个大二十倍的模型
#
# SmolLM2 有 1.35 亿个参数，离群值也厉害得多。给它一段英文，看困惑度 (perplexity)，即 $e^{\text{loss}}$：模型平均在几个词元之间拿不定主意。
#
# **先猜一猜**：int4 每张量一个 scale，困惑度会是多少？

# %% tags=["volatile"]
import math

STORY = (
    "The ferry crosses the river twice an hour, and in the morning it is full of people who would rather sleep. "
    "An old man sells tea near the rail. He has done so for thirty years, he says, and he has never once fallen "
    "into the water. When the fog is thick the captain slows the engine and rings a bell, and everyone on board "
    "becomes quiet, as if the fog could hear them. On the far bank the town begins with a row of low shops."
)
story = smol_tokenizer(STORY, return_tensors="pt")
smol_original = predictions(smol, story)
print(f"{story.input_ids.shape[1]} 个词元，不量化时困惑度 {math.exp(compare(smol_original, smol_original, story)[0]):.1f}")

# %% [markdown]
# 数字太抽象，顺便听它说话：每种办法都问同一个问题，贪心解码 (greedy)。

# %% tags=["volatile"]
from lab_utils.models.generation import chat_prompt, complete

question = chat_prompt(smol_tokenizer, "What is the capital of France?")
kept = {name: w.data for name, w in smol_weights.items()}
for name in ("不量化", "int4 每张量", "int4 块 64", "NF4 双重"):
    for layer, w in smol_weights.items():
        w.data = SCHEMES[name][1](kept[layer]) if name in SCHEMES else kept[layer]
    loss, kl, same = compare(smol_original, predictions(smol, story), story)
    answer = complete(smol, smol_tokenizer, [question], max_new_tokens=12)[0].text
    print(f"{name}：困惑度 {math.exp(loss):,.1f}，KL {kl:.4f}，同选 {same:.1%}\n    回答 {answer!r}")
for layer, w in smol_weights.items():
    w.data = kept[layer]

# %% [markdown]
# 后三个都是 4 位。差别只在 scale 管多少个权重、刻度放在哪里。97 个词元太少，困惑度会有碰巧，看 KL 和同选更可靠。
# 模型越大，越经得起 4 位：1.35 亿个参数的模型已经伤了一些，QLoRA 论文微调 7B 到 65B 的模型，NF4 加双重量化与 16 位的成绩持平。

# %% [markdown]
# ## 9 4 位存，16 位算
#
# 量化的权重不能直接相乘：编码 3 不是数值 3。计算时，一层的权重先**展开** (dequantize) 成 16 位或 32 位的浮点数，与输入相乘，用完就丢。
# 所以 QLoRA 有两种数据类型：存储的 (storage dtype) 和计算的 (compute dtype)。看 bitsandbytes 的线性层：

# %% tags=["volatile"]
from bitsandbytes.nn import Linear4bit

plain = torch.nn.Linear(768, 256, bias=False)
plain.weight.data = down.clone()
four_bit = Linear4bit(768, 256, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
four_bit.load_state_dict(plain.state_dict())
four_bit = four_bit.to("cpu")
x = torch.randn(4, 768, generator=torch.Generator().manual_seed(0)).bfloat16()
stored, state = four_bit.weight, four_bit.weight.quant_state
print(f"普通的线性层：{plain.weight.dtype}，{tuple(plain.weight.shape)}，{plain.weight.nbytes:,} 字节")
print(f"4 位线性层：存 {stored.dtype}，{tuple(stored.shape)}，{stored.nbytes:,} 字节", end="")
print(f"，另有 absmax {state.absmax.nbytes + state.state2.absmax.nbytes:,} 字节（双重量化之后）")
print(f"            算 {four_bit.compute_dtype}，输出 {four_bit(x).dtype}")

# %% [markdown]
# 它算的就是“展开再相乘”，展开的权重与我们自己还原的相同：

# %% tags=["volatile"]
by_hand = torch.nn.functional.linear(x, nf4_double(down).bfloat16())
print(f"与自己展开再相乘的最大差：{float((four_bit(x) - by_hand).abs().max()):.1e}")
exact = torch.nn.functional.linear(x.float(), down)
print(f"与不量化的输出，相对误差：{quant.relative_error(exact, four_bit(x).detach()):.2%}")

# %% [markdown]
# 两个推论：
#
# - 4 位**省的是存储**，不省计算。每次前向都要多一步展开，所以 QLoRA 比 LoRA 慢一些，换来的是放得下。
# - 梯度只流向适配器，不流向 4 位的编码：编码是整数，没有梯度。底座必须冻结，这正是 LoRA 的做法，两者天生一对。
#
# ### 推理也一样
#
# 不训练，只推理 (inference)，权重是内存里最大的一块。一个 7B 的模型读 2048 个词元：

# %%
from lab_utils import vram

for label, scheme in (("FP16", None), ("INT8", "int8"), ("INT4 (NF4)", "nf4")):
    found = vram.estimate("Qwen2.5-7B", "inference", seq_len=2048, quantization=scheme)
    held = found.parts["weights"] + found.parts.get("quantization constants", 0)
    cache = found.parts["kv cache"]
    print(f"{label:>10}：权重 {held / 1e9:5.2f} GB，KV 缓存 {cache / 1e9:.2f} GB，一共 {found.total_bytes / 1e9:5.2f} GB")

# %% [markdown]
# 4 位没有到 FP16 的四分之一：词嵌入 (embedding) 和输出头不量化，它们在 Qwen2.5-7B 里就有 10.9 亿个参数。KV 缓存也不因为量化权重而变小。

# %% [markdown]
# ## 10 训练要多少内存
#
# 训练时，除了权重还有三样与批大小无关的东西：
#
# | 部分 | 每个训练的参数 |
# | --- | --- |
# | 梯度 (gradient) | 一个数 |
# | AdamW 的一阶矩 (first moment) | 一个数 |
# | AdamW 的二阶矩 (second moment) | 一个数 |
#
# ### 练习 8：四个部分
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `training_parts(parameters, weight_bits, adapters)`，返回字典，键是 `weights`、`adapters`、`gradients`、`optimizer`，单位 GB（10⁹ 字节）：
#
# - `parameters` 个底座的权重，每个 `weight_bits` 位；
# - `adapters` 是适配器的参数个数，每个 4 字节 (float32)；
# - `adapters` 为 0 就是全参数训练：所有权重都训练，梯度和优化器里的数每个 2 字节；
# - 否则只训练适配器，梯度和优化器里的数每个 4 字节。

# %% exercise="training_parts"
def training_parts(parameters: int, weight_bits: float, adapters: int) -> dict[str, float]:
    """训练时与批大小无关的四个部分，单位 GB。"""
    ### BEGIN SOLUTION
    trained = 4 * adapters if adapters else 2 * parameters
    return {
        "weights": parameters * weight_bits / 8 / 1e9,
        "adapters": 4 * adapters / 1e9,
        "gradients": trained / 1e9,
        "optimizer": 2 * trained / 1e9,
    }
    ### END SOLUTION

# %% check="training_parts"
checks.TRAINING_PARTS(training_parts)

# %% [markdown]
# 一个正好 70 亿参数的模型，适配器 2000 万个参数：

# %%
cases = {"全参数": (16, 0), "LoRA": (16, 20_000_000), "QLoRA": (4.127, 20_000_000)}
for name, (bits, adapters) in cases.items():
    parts = checks.training_parts(7_000_000_000, bits, adapters)
    line = " + ".join(f"{part:.2f}" for part in parts.values())
    print(f"{name:>6}：{line} = {sum(parts.values()):5.2f} GB（权重 + 适配器 + 梯度 + 优化器）")

# %% [markdown]
# 全参数 14 + 14 + 28 = 56 GB，这还只是底线。（AdamW 的两个矩如果用 32 位，28 还要翻一倍。）没有算进去的：**激活值** (activation，反向传播要用的中间结果，随批大小和长度增长)、词表上的损失、不量化的词嵌入、临时缓冲。
# `vram.estimate` 把它们全算上，取一步训练里最多的那一刻。下面都打开了梯度检查点 (gradient checkpointing)，每步 2 条、每条 1024 个词元。

# %%
peaks, bars = {}, {}
for method, label in (("full", "全参数"), ("lora", "LoRA"), ("qlora", "QLoRA")):
    found = vram.estimate("Llama-2-7B", method, seq_len=1024, batch_size=2, gradient_checkpointing=True)
    peaks[method] = found.total_bytes / 1e9
    bars[f"{label}  {peaks[method]:.1f} GB"] = found.parts
    print(f"{label}：", "，".join(f"{vram.PARTS[p]} {size / 1e9:.2f} GB" for p, size in found.parts.items()))
course.record(peak_gb_7b=peaks)

# %% tags=["volatile"]
main = {"weights": plots.DARK, "gradients": plots.SOFT, "optimizer states": plots.BRIGHT}
drawn = pd.DataFrame({vram.PARTS[p]: [held.get(p, 0) / 1e9 for held in bars.values()] for p in main}, index=bars)
drawn["其余"] = [sum(size for p, size in held.items() if p not in main) / 1e9 for held in bars.values()]
ax = plots.axes("全参数训练的四分之三是梯度和优化器状态", "", "")
drawn.plot.barh(stacked=True, ax=ax, color=[*main.values(), "#8c8c8c"], width=0.6)
ax.set(xlabel="内存 (GB)，Llama-2-7B，2 × 1024 个词元", ylabel="")
ax.invert_yaxis()
ax.grid(axis="y", visible=False)
ax.legend(frameon=False, loc="lower right");

# %% [markdown]
# Llama-2-7B 实际有 67.4 亿个参数，所以全参数是 54 GB；它的最大一刻在更新参数时，那时激活值已经用完了。LoRA 约 15 GB，QLoRA 约 5 GB。
#
# ### 算得准吗
#
# 公式要拿实测来对。在小诗上真的各训练一步，量出这一步里同时活着的张量最多有多少字节，与预测比。

# %% tags=["volatile"]
folder = models.path(models.SHIPPED)
sizes = {"seq_len": 64, "batch_size": 2, "dtype": setting.torch_dtype}
found = {}
for method in ("full", "lora", "qlora"):
    predicted = vram.estimate(folder, method, **sizes).total_bytes
    measured = vram.measured_step(folder, method, **sizes, device=setting.device).bytes
    found[vram.METHODS[method]] = (predicted / 2**20, measured / 2**20, predicted / measured - 1)
memory = pd.DataFrame(found, index=["预测 (MiB)", "实测 (MiB)", "相差"]).T
display(memory.style.format({"预测 (MiB)": "{:.1f}", "实测 (MiB)": "{:.1f}", "相差": "{:+.2%}"}))

# %% [markdown]
# 预测与实测几乎一个字节不差。小诗从 LoRA 到 QLoRA 只省了三成：它的词嵌入和激活值占的比例大，这些都不量化。模型越大，线性层的权重占得越多，QLoRA 越划算。
# 换一个模型、一张卡、一种长度，自己算：

# %% tags=["volatile"]
widgets.memory_calculator()

# %% [markdown]
# ## 11 优化器状态：8 位与分页
#
# 全参数训练里最大的一块是 AdamW 的 28 GB。两种省法，bitsandbytes 都有：
#
# - **8 位优化器**：两个矩也用分块量化存成 8 位（和双重量化用的是同一种刻度）；
# - **分页优化器** (paged optimizer)：QLoRA 的第三个贡献。状态放在可以分页的内存里，显存不够时，暂时不用的几页被换到主机内存，用到时再换回来。

# %% tags=["volatile"]
import warnings

import bitsandbytes

def state_bytes(make):
    """一步之后优化器状态的字节数，和它发出的警告。"""
    parameter = torch.nn.Parameter(torch.randn(1024, 1024))
    parameter.grad = torch.randn(1024, 1024)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = make([parameter], lr=1e-4)
        optimizer.step()
    held = sum(v.nbytes for v in optimizer.state[parameter].values() if torch.is_tensor(v))
    return held, [str(warning.message) for warning in caught]

for kind in (torch.optim.AdamW, bitsandbytes.optim.AdamW8bit, bitsandbytes.optim.PagedAdamW8bit):
    held, said = state_bytes(kind)
    print(f"{kind.__name__:>15}：每个参数 {held / 2**20:.2f} 字节", *said)

# %% [markdown]
# 8 位的确只有四分之一。分页的那一个在 CPU 上并没有分页，bitsandbytes 自己说明了：分页靠的是 CUDA 的统一内存 (unified memory)，这里没有显卡，**看不到真的**。
#
# 但原理可以看到，因为操作系统对普通内存做的是同一件事：分配了的，不一定在内存里 (resident)。下面把 128 MiB 的“优化器状态”放在一个文件映射上，
# 换出去，再只用其中八分之一，看常驻内存 (resident memory) 怎样变化。

# %% tags=["volatile"]
import mmap
import tempfile

import numpy as np
import psutil

def resident():
    """这个进程现在真正占的内存，MiB。"""
    return psutil.Process().memory_info().rss / 2**20

with tempfile.TemporaryFile(dir=course.output("03")) as file:
    file.truncate(128 * 2**20)
    pages = mmap.mmap(file.fileno(), 128 * 2**20)
start = resident()
states = np.frombuffer(pages, dtype=np.float32).reshape(8, -1)
print(f"分配之后 {resident() - start:+6.0f} MiB")
states[:] = np.arange(8)[:, None]
print(f"写满之后 {resident() - start:+6.0f} MiB")
pages.madvise(mmap.MADV_DONTNEED)
print(f"换出之后 {resident() - start:+6.0f} MiB")
means = states[3].mean()
print(f"用到一层 {resident() - start:+6.0f} MiB，内容没有丢：{means == 3}")

# %% [markdown]
# 分页优化器把这件事用在显存上：一步训练里，前向和反向时优化器状态用不到，激活值最多的那一刻可以把它们换出去；更新参数时再一层层换回来。
# 代价是搬运的时间，好处是偶尔一条特别长的数据不会让训练崩溃。能换出去多少？

# %%
for optimizer in ("adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"):
    found = vram.estimate("Llama-2-7B", "full", optimizer=optimizer, gradient_checkpointing=True)
    print(f"{optimizer:>16}：显存里必须有 {found.total_bytes / 1e9:5.1f} GB，可以换到主机内存 {found.host_bytes / 1e9:4.1f} GB")

# %% [markdown]
# ## 12 另外三种压缩
#
# 量化让每个权重**存得少**。还有三种办法，让权重或层**变少**。各做一个小实验，都量损失、困惑度、大小和一次前向的时间：
#
# - **剪枝** (pruning)：去掉不重要的。非结构化 (unstructured) 的把绝对值小的权重变成 0；结构化 (structured) 的把整个神经元拿掉，矩阵真的变小；
# - **低秩分解** (low-rank factorization)：用两个瘦长的矩阵相乘，代替一个方的；
# - **蒸馏** (distillation)：训练一个小模型，让它模仿大模型对下一个词元的**整个概率分布**，而不只是正确答案。
#
# **先猜一猜**：剪掉一半的权重，和拿掉四分之一的神经元，哪个更伤？

# %% tags=["volatile"]
from lab_utils import compression

rows = read_jsonl(course.dataset("verse_sft") / "train.jsonl")
examples = compression.poem_examples(tokenizer, rows)
held_out, training = examples[:32], examples[32:]
shrunk = {
    "原来的小诗": model,
    "剪掉一半的权重": compression.prune_magnitude(model, 0.5),
    "拿掉 1/4 的神经元": compression.prune_neurons(model, 0.25),
    "低秩，秩减半": compression.factorize(model, 0.5),
}

# %% [markdown]
# 蒸馏要一个学生 (student)：取小诗 6 层中的 3 层作起点。再训练一个对照：同样的起点、同样的数据、同样的 40 步，但只学正确的词元，不看老师 (teacher)。

# %% tags=["volatile"]
import copy

from lab_utils.training import loop

student = compression.student_of(model, [0, 2, 5])
shrunk["3 层，没有训练"] = student
shrunk["3 层，只学答案"] = copy.deepcopy(student)
settings = {"steps": 40, "learning_rate": 3e-3, "batch_size": 8, "progress": False}
loop.train(shrunk["3 层，只学答案"], training, **settings)
shrunk["3 层，蒸馏"] = compression.distill(model, student, training, temperature=1.0, **settings)
shrunk_table = compression.compare(shrunk, held_out, repeats=2).set_index("model")
shown = shrunk_table[["parameters", "nonzero", "mib", "sparse_mib", "loss", "perplexity", "time"]]
shown.columns = ["参数", "非零", "MiB", "稀疏存 MiB", "损失", "困惑度", "相对时间"]
display(shown.style.format("{:.2f}").format("{:,}", subset=["参数", "非零"]))
course.record(compression_loss=shrunk_table["loss"].to_dict())

# %% [markdown]
# 读这张表：
#
# - 剪掉一半的**权重**，大小和时间都没变：零也要存，零也要乘。换成稀疏格式 (sparse)，每个非零的数要多存一个 4 字节的位置，剪一半正好不赚。
# - 拿掉**神经元**，矩阵真的小了，时间也少了。
# - **低秩**伤得最重：模型的权重本身不是低秩的。第 02 课里低秩的是微调的**改变量** ΔW，两件事不要混。
# - 拿掉一半的层，模型就乱了；训练 40 步救回来大半，跟着老师学比只学答案快。
#
# 四种办法可以叠加：先蒸馏或剪枝，再量化，是常见的做法。

# %% [markdown]
# ## 小结
#
# - 量化 = 除以 scale，取最近的刻度，记下序号。误差由 **scale 管多少个权重**和**刻度放在哪里**决定。
# - 离群值只害自己那一块：块大小 64 的 4 位，比整个张量一个 scale 的 4 位好得多。
# - NF4 的刻度是正态分布的分位数，每个编码差不多一样常用，4 位都用上了。
# - 双重量化把 absmax 的 0.5 位压到 0.127 位，误差几乎不变。
# - QLoRA：4 位存、16 位算、底座冻结、只训练适配器。7B 的训练从 56 GB 以上降到 5 GB 左右。
#
# ## 思考题
#
# 1. 块大小 64 加双重量化是 4.127 位。如果把块大小降到 32，再加双重量化，是几位？误差呢？值不值？
# 2. NF4 假定权重服从正态分布。如果某一层的权重是均匀分布的，NF4 和 int4 谁的误差小？生成一些均匀的随机数试试。
# 3. 一张 24 GB 的卡，用 `vram.fits("Qwen2.5-7B", 24)` 看看哪些方法放得下，放不下的该改什么。
#
# ## 下一步
#
# 第 04 课：数据。模型装得下了，喂给它什么？
