# %% [markdown]
# {{card}}

# %% [markdown]
# 损失降下来了，离“别人能用”还有一段路，许多项目就坏在这段路上：适配器 (adapter) 发上去部署不了；合并进了 4 位的底座；对话模板 (chat template) 换了一份；上线的其实是底座。
# 这一课把第 05 课的适配器变成可以发布的模型。每走一步都问同一个问题：**它还是训练出来的那个模型吗？** 答案不靠看几首诗，靠一道会说“差在哪里”的闸门。
#
# 顺序是：认清文件夹 → 合并 (merge) → 量漂移 (drift) → 过闸门 (parity gate) → 转成 GGUF → 发布前检查 (pre-flight)。

# %% tags=["volatile"]
import torch

from lab_utils import course, export, models, profile, swift

models.quiet()
setting = profile.current()
output = course.output("10")
base = models.path(models.SHIPPED)
adapter = models.shipped_adapter()
print(f"配置 {setting.name}：{setting.reason}")
print(f"底座 {base.name}，第 05 课的适配器 {adapter.name}")

# %% [markdown]
# ## 1 检查点里有什么
#
# 先做一次很短的训练：只走 2 步，只为看它留下什么。这一次让它把优化器的状态 (optimizer state) 也存下来，这是许多教程的默认做法。

# %% tags=["volatile"]
from lab_utils.data.jsonl import read_jsonl, write_jsonl

recipe = profile.RECIPES["cpu"]["verse"]
few = output / "few.jsonl"
write_jsonl(few, read_jsonl(course.dataset("verse_sft") / "train.jsonl")[:32])
keep_all = dict(max_steps=2, save_strategy="steps", save_steps=2, save_only_model=False)
trained = swift.run(swift.sft_command(recipe, setting, few, output / "short", **keep_all))
print(f"用时 {trained.seconds:.0f} 秒")

# %% [markdown]
# **先猜一猜**：适配器只有 46.7 万个数。检查点里最大的文件是哪一个？

# %% tags=["volatile"]
for file in sorted(trained.checkpoint.iterdir(), key=lambda file: -file.stat().st_size):
    print(f"{file.stat().st_size:>10,} 字节  {file.name}")

# %% [markdown]
# 最大的是优化器的状态：AdamW 为每个参数记两个数，是适配器的两倍。它只在接着训练时有用。
# `args.json` 记着这次训练的全部参数，连同这台机器上的路径；`adapter_config.json` 和 `adapter_model.safetensors` 才是适配器本身。**底座不在里面**：没有分词器，没有对话模板，没有底座的权重。
#
# 于是同一个项目里会有四种文件夹，长得很像，用法不同：
#
# | 种类 | 里面有 | 能单独加载吗 |
# | --- | --- | --- |
# | 适配器 `adapter` | `adapter_config.json` 和 `adapter_model.safetensors` | 不能，要配上底座 |
# | 模型 `model` | `config.json`、`tokenizer.json`、至少一个 `model….safetensors` | 能 |
# | 训练文件夹 `run` | 子文件夹 `checkpoint-步数` | 不能，要进到检查点里 |
# | 不完整 `incomplete` | 以上都不满足 | 不能 |
#
# ### 练习 1：认清文件夹
#
# ⏱ 约 6 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `kind_of(names)`：`names` 是文件夹里各项的名字，按上表从上到下判断，返回四个英文名之一。模型的权重可能分成几片：`model-00001-of-00002.safetensors`。
#
# <details><summary>提示：检查点被当成了训练文件夹</summary>检查点里也有 args.json 和 trainer_state.json。训练文件夹的标志是里面有“checkpoint-数字”。</details>
# <details><summary>提示：适配器被当成了模型</summary>adapter_model.safetensors 里也有 model 这个词。用 startswith 看开头。</details>

# %% exercise="kind_of"
def kind_of(names: list[str]) -> str:
    """adapter、model、run 或 incomplete。"""
    ### BEGIN SOLUTION
    if "adapter_config.json" in names and "adapter_model.safetensors" in names:
        return "adapter"
    weights = [n for n in names if n.startswith("model") and n.endswith(".safetensors")]
    if "config.json" in names and "tokenizer.json" in names and weights:
        return "model"
    if any(n.startswith("checkpoint-") and n.removeprefix("checkpoint-").isdigit() for n in names):
        return "run"
    return "incomplete"
    ### END SOLUTION

# %% check="kind_of"
from lab_utils.checks import export as checks

checks.KIND_OF(kind_of)

# %% [markdown]
# `export.classify` 看得更细：权重文件是不是写了一半、索引里的张量在不在、是底座还是合并过的。`export.resolve` 从任何一种文件夹找到要用的那一个，不用手抄 `checkpoint-步数`。

# %% tags=["volatile"]
for folder in (base, adapter, trained.folder, trained.checkpoint):
    print(export.classify(folder))
print(f"\n从训练文件夹找到：{export.resolve(trained.folder).name}")

# %% [markdown]
# ## 2 合并：把两份变成一份
#
# 第 02 课写过一层的合并：$W = W_0 + \frac{\alpha}{r}BA$。现在对着真的适配器文件做一遍。peft 存下的名字比模型里的多一段前缀：
#
# | 适配器文件里 | 对应的权重 |
# | --- | --- |
# | `base_model.model.` + 层名 + `.lora_A.weight`，形状 (r, d_in) | 层名 + `.weight`，形状 (d_out, d_in) |
# | `base_model.model.` + 层名 + `.lora_B.weight`，形状 (d_out, r) | 同一个 |
#
# ### 练习 2：合并一个文件
#
# ⏱ 约 12 分钟 · 难度 ★★★ · 重要 ★★★
#
# 写 `merge_state(base, adapter, r, lora_alpha)`：`base` 和 `adapter` 都是“名字 → 张量”的字典，返回合并后的字典，名字和 `base` 的完全一样。不要改动传入的张量。
#
# <details><summary>提示：存下来的模型缺权重</summary>没有适配器的层（嵌入、norm）也要原样放进结果。先 dict(base)，再改其中几个。</details>
# <details><summary>提示：传入的参数被改动了</summary>+= 和 add_ 会就地修改。写成 新 = 旧 + 更新。</details>

# %% exercise="merge_state"
def merge_state(base: dict, adapter: dict, r: int, lora_alpha: float) -> dict:
    """合并后的权重，名字与 base 相同。"""
    ### BEGIN SOLUTION
    merged = dict(base)
    for name, a in adapter.items():
        if name.endswith(".lora_A.weight"):
            b = adapter[name.replace(".lora_A.", ".lora_B.")]
            target = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
            merged[target] = base[target] + lora_alpha / r * b @ a
    return merged
    ### END SOLUTION

# %% check="merge_state"
checks.MERGE_STATE(merge_state)

# %% [markdown]
# 真的项目里用现成的工具。两条路都走：peft 的 `merge_and_unload`，和 `swift export --merge_lora`。后者的命令是：

# %% tags=["volatile"]
print(export.merge_command(base, adapter, output / "xiaoshi-poet-swift"))

# %% [markdown]
# **先猜一猜**：peft、swift、手算的公式，三份权重最多差多少？

# %% tags=["volatile"]
import json

from safetensors.torch import load_file

merged = export.merge(base, adapter, output / "xiaoshi-poet")
by_swift = export.merge(base, adapter, output / "xiaoshi-poet-swift", by="swift")
weights = load_file(merged / "model.safetensors")
config = json.loads((adapter / "adapter_config.json").read_text())
start = {name: w.float() for name, w in load_file(base / "model.safetensors").items()}
update = load_file(adapter / "adapter_model.safetensors")
by_hand = checks.merge_state(start, update, config["r"], config["lora_alpha"])
for name, other in {"swift": load_file(by_swift / "model.safetensors"), "手算": by_hand}.items():
    worst = max((weights[key] - other[key]).abs().max().item() for key in weights)
    print(f"peft 与 {name}：{len(other)} 个张量，最多相差 {worst:.1e}")

# %% [markdown]
# 三份是一样的；换一台机器，求和的次序不同时，最多差在 float32 的最后一位。所以用哪个工具不重要，重要的是合并**到什么底座里**。
#
# ### 陷阱：QLoRA 训练之后的合并
#
# 第 05 课的底座是 4 位的。`swift export` 默认会读检查点里的 `args.json`，把训练时的 `quant_method`、`quant_bits` 也读进来。对刚才那次训练，用最自然的写法合并，看看得到什么。

# %% tags=["volatile"]
natural = swift.command(
    "export", model=base, adapters=trained.checkpoint, merge_lora=True, output_dir=output / "natural", exist_ok=True
)
print(natural)
done = swift.run(natural, progress=False)

# %%
def megabytes(folder) -> float:
    """权重文件的大小，MB。"""
    return (folder / "model.safetensors").stat().st_size / 1e6

print(export.classify(done.folder).why)
print(f"权重文件 {megabytes(done.folder):.1f} MB；全精度的合并 {megabytes(merged):.1f} MB")

# %% [markdown]
# 没有报错，也没有提醒，写进 `output_dir` 的是 4 位的模型：ms-swift 合并以后又按训练时的设置量化了一次。全精度的那一份写在检查点旁边一个以 `-merged` 结尾的文件夹里，很容易漏看。`export.merge` 的命令里有 `--load_args false`，就是不让它读那份 `args.json`；合并之后还会检查写出来的确实是全精度。
#
# ## 3 漂移：差了多少
#
# 4 位就一定不行吗？先量。参照是 float32 的底座加适配器。让它回答 50 道没见过的题，然后看别的版本在**同一串词元**的每一个位置上，给出的概率差多少。
#
# ### 练习 3：漂移的两个数
#
# ⏱ 约 10 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `drift(reference, other)`：两个 (词元数, 词表大小) 的 logits，返回 `(max_abs, kl)`：
#
# - `max_abs`：logit 相差最大的绝对值；
# - `kl`：每个位置的 $\mathrm{KL}(p\,\|\,q)=\sum_v p_v(\ln p_v-\ln q_v)$，$p$ 来自 reference、$q$ 来自 other，再对位置求平均。单位是纳特 (nat)。
#
# <details><summary>提示：完全平移时 KL 不是 0</summary>logits 还不是对数概率。先 log_softmax。</details>
# <details><summary>提示：KL 太小</summary>先对词表求和，再对位置求平均。一步 mean() 会多除一个词表大小。</details>

# %% exercise="drift"
def drift(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """(logit 的最大偏差, 每个词元的平均 KL)。"""
    ### BEGIN SOLUTION
    p, q = reference.log_softmax(-1), other.log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1).mean()
    return (reference - other).abs().max().item(), kl.item()
    ### END SOLUTION

# %% check="drift"
checks.DRIFT(drift)

# %% tags=["volatile"]
from lab_utils.evaluation.verse_exam import held_out_questions
from lab_utils.evaluation.drift import answer_logits

exam = held_out_questions(per_form=13)[:50]
prompts = [row["messages"] for row in exam]
length = 90
reference = export.local(base, adapter)
ids = [reference.prompt_ids(prompt) for prompt in prompts]
answers = reference.greedy(ids, length)
said = [p + [{"role": "assistant", "content": a.text}] for p, a in zip(prompts, answers)]
truth = answer_logits(reference, said)
print(f"{len(prompts)} 个回答，{len(truth):,} 个词元；第一首：\n{answers[0].text}")

# %% [markdown]
# 比五种做法。后三种都有 4 位，次序不同：
#
# - **合并后再量化**：先在 float32 里合并，再把结果存成 4 位。舍入一次。
# - **4 位底座 + 适配器**：底座存成 4 位，适配器不动。这正是 QLoRA 训练时看到的模型。
# - **合并进 4 位**：把底座存成 4 位，展开，加上更新，再存成 4 位。舍入两次。
#
# **先猜一猜**：哪一种离参照最远？写出来的诗还像诗吗？

# %% tags=["volatile"]
from lab_utils import verse
from lab_utils.evaluation.drift import drift as measure

half = export.merge(base, adapter, output / "xiaoshi-poet-bf16", dtype="bfloat16")
ways = {
    "合并，存成 float32": lambda: export.local(merged),
    "合并，存成 bfloat16": lambda: export.local(half),
    "合并后再量化成 4 位": lambda: export.local(merged, bits=4),
    "4 位底座 + 适配器": lambda: export.local(base, adapter, bits=4),
    "合并进 4 位的底座": lambda: export.merged_into_4bit(base, adapter),
}
found, wrote = {}, {}
for name, load in ways.items():
    candidate = load()
    found[name] = measure(truth, answer_logits(candidate, said))
    wrote[name] = candidate.greedy(ids, length)
    print(f"{name}：{found[name]}")

# %% [markdown]
# 漂移是不是要紧，要看它改变了什么。数两样：贪心解码 (greedy decoding) 写出的 50 首诗里有几首一字不差；有几首形式合格。

# %% tags=["volatile"]
def passes(answer, row) -> bool:
    """诗体对，而且自己停下来。"""
    return verse.check(answer.text, row["form"]).form_ok and answer.ended

same = {name: sum(a == b for a, b in zip(texts, answers)) for name, texts in wrote.items()}
passed = {name: sum(passes(a, row) for a, row in zip(texts, exam)) for name, texts in wrote.items()}
print(f"参照：形式合格 {sum(passes(a, row) for a, row in zip(answers, exam))}/50")
for name in ways:
    print(f"{name}：一字不差 {same[name]}/50，形式合格 {passed[name]}/50")

# %% tags=["volatile"]
from lab_utils import plots

ax = plots.axes("合并进 4 位离得最远：它舍入了两次", "", "")
notes = {name: f"一字不差 {same[name]}/50，合格 {passed[name]}/50" for name in ways}
plots.drift_bars(ax, {name: d.kl for name, d in found.items()}, notes)
keys = ("merged_fp32", "merged_bf16", "merged_then_4bit", "base_4bit_adapter", "merged_into_4bit")
course.record(
    drift={k: [d.max_abs, d.kl, d.agreement] for k, d in zip(keys, found.values())},
    same_text=dict(zip(keys, same.values())),
    form_pass=dict(zip(keys, passed.values())),
)

# %% [markdown]
# 既然要小，就存一份“先合并、再量化”的。存下来再读回来，应当和刚才内存里的那一份一字不差。

# %% tags=["volatile"]
import shutil

small = output / "xiaoshi-poet-4bit"
candidate = export.local(merged, bits=4)
candidate.model.save_pretrained(small)
candidate.tokenizer.save_pretrained(small)
shutil.copy(merged / "merge.json", small)
again = export.local(small).greedy(ids, length)
print(export.classify(small))
print(f"{megabytes(merged):.1f} MB → {megabytes(small):.1f} MB")
print(f"读回来一字不差：{sum(a == b for a, b in zip(again, wrote['合并后再量化成 4 位']))}/50")

# %% [markdown]
# 大模型上用命令做同一件事：`swift export --model 合并后的文件夹 --quant_method bnb --quant_bits 4`；换成 `gptq`、`awq` 时还要给一份校准 (calibration) 数据。
#
# 三件事值得记住：
#
# 1. 全精度的合并没有代价：漂移只是求和次序带来的最后几位。
# 2. 存成 4 位一定会改变文字，但“改变”不等于“变差”：形式合格的数目几乎不动。要部署得小，就**先合并，再量化**，然后重新打分。
# 3. 合并进 4 位把误差又放大了几倍，却什么也没有省下。没有理由这样做。
#
# ## 4 闸门：还是同一个模型吗
#
# 漂移要能算出全部 logits 才量得出来；上线以后往往只有一个网址。闸门按出错的次序问三个问题，任何一种“能回答提示的东西”都答得上来：
#
# 1. **提示词的词元**一样吗？（模板、分词器）
# 2. **下一个词元的对数概率**在容差之内吗？（权重、精度）容差按精度定：float32 是 0.001 纳特。
# 3. **贪心文字**一样吗，停在同一处吗？（结束符）
#
# ### 练习 4：最早的差别
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★★☆
#
# “不一样”没有用，要知道从哪里开始不一样。写 `first_difference(a, b)`：两列词元编号最早不同的位置（从 0 数）；完全相同返回 `None`。一列是另一列的开头时，位置是短的那列的长度。
#
# <details><summary>提示：多出一截时返回了 None</summary>zip 在短的那边用完就停。循环之后还要比长度。</details>

# %% exercise="first_difference"
def first_difference(a: list[int], b: list[int]) -> int | None:
    """最早不同的位置，没有时 None。"""
    ### BEGIN SOLUTION
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))
    ### END SOLUTION

# %% check="first_difference"
checks.FIRST_DIFFERENCE(first_difference)

# %% [markdown]
# 正式的闸门：底座加适配器，对合并后的模型，50 条提示。

# %% tags=["volatile"]
gate = export.parity((base, adapter), merged, prompts, max_new_tokens=length)
print(gate)
course.record(
    parity_equal=gate.equal, parity_same_text=gate.same_text, parity_logprob=gate.max_logprob_difference
)

# %% [markdown]
# 一道从不报警的闸门没有用。下面故意放进四种真实的错误，看它拦不拦得住，在哪一步拦住。
#
# **先猜一猜**：少了结束符的模型，前两步会过吗？

# %% tags=["volatile"]
def faulty(change):
    """合并后的模型，改坏一处。"""
    candidate = export.local(merged)
    change(candidate)
    return candidate

def wrong_template(candidate):
    candidate.tokenizer.chat_template = "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}" + (
        candidate.tokenizer.chat_template
    )

def no_end_token(candidate):
    candidate.model.generation_config.eos_token_id = candidate.tokenizer.pad_token_id

faults = {
    "模板多了系统提示": faulty(wrong_template),
    "精度是 bfloat16": export.local(merged, dtype="bfloat16"),
    "少了结束符": faulty(no_end_token),
    "上线的是底座": export.local(base),
}
reports = {name: export.parity(reference, bad, prompts[:12], length) for name, bad in faults.items()}

# %% tags=["volatile"]
for name, report in reports.items():
    print(f"【{name}】{report.first_difference}\n")
course.record(faults_caught={name: r.first_difference.stage for name, r in reports.items() if not r.equal})

# %% tags=["volatile"]
def cells(report) -> dict:
    """一行：每一步量到了什么，✗ 表示不同。"""
    n, worst = report.prompts, report.max_logprob_difference
    far = f"{worst:.2g} 纳特" if worst < 100 else "首选词元不在对方的前 20 名"
    return {
        "prompt": f"{'' if report.same_ids == n else '✗ '}相同 {report.same_ids}/{n}",
        "logits": f"{'' if worst <= report.tolerance else '✗ '}相差 {far}",
        "text": f"{'' if report.same_text == n else '✗ '}相同 {report.same_text}/{n}",
    }

ax = plots.axes("四种错误都被拦下；橙色是最早发现的一步\n", "", "")
ax.figure.set_size_inches(9, 2.8)
stages = {"prompt": "① 提示的词元", "logits": "② 对数概率", "text": "③ 文字和结束"}
plots.parity_table(ax, {name: cells(report) for name, report in reports.items()}, stages)

# %% [markdown]
# 最早的差别指着原因，后面的多半是它的后果。模板错了，文字当然也不同；只看文字，就不知道该改模板还是改权重。
#
# ## 5 GGUF：给 Ollama 和 llama.cpp
#
# GGUF 把权重、配置、分词器、对话模板装进一个文件，Ollama 和 llama.cpp 用它。转换用 llama.cpp 自己的脚本 `convert_hf_to_gguf.py`，然后把文件读回**真正的 llama.cpp**，过同一道闸门。llama.cpp 在这里是本机的一个 HTTP 服务，闸门隔着网址问它；第 11 课用同样的问法检查 vLLM。
#
# 小诗的分词器是自己训练的，脚本靠哈希 (hash) 认分词器，不认识它。真正要紧的是切分文字的规则 (pre-tokenizer)：它和 Qwen2 的逐字相同，所以这样告诉脚本，再用词元编号验证。

# %% tags=["volatile"]
ggufs = {kind: export.to_gguf(merged, output / f"poet-{kind}.gguf", kind) for kind in ("f32", "q8_0")}
converted = {kind: export.parity(merged, file, prompts, max_new_tokens=length) for kind, file in ggufs.items()}
for kind, file in ggufs.items():
    print(f"【{kind}】{file.stat().st_size / 1e6:.1f} MB\n{converted[kind]}\n")
course.record(
    gguf_equal=converted["f32"].equal,
    gguf_same_ids=converted["f32"].same_ids,
    gguf_same_text={kind: report.same_text for kind, report in converted.items()},
    gguf_logprob={kind: report.max_logprob_difference for kind, report in converted.items()},
)

# %% [markdown]
# 另一套代码、另一种文件格式，float32 的结果仍是 50/50。8 位的 `q8_0` 小到约四分之一，闸门如实报告它不再是同一个模型；用不用它，看第 3 节那样的打分。
#
# ### Modelfile 和模板
#
# Ollama 不读分词器里的 Jinja 模板，要在 Modelfile 里用 Go 的写法再写一遍。写错一个换行，词元就变了，而且**不会报错**。小诗用的是 ChatML：
#
# ```
# <|im_start|>角色⏎内容<|im_end|>⏎      （每一轮）
# <|im_start|>assistant⏎                （最后，等模型接着写）
# ```
#
# ### 练习 5：套模板
#
# ⏱ 约 6 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `chatml(messages)`：返回整个提示的文字。`⏎` 是换行 `\n`；内容原样照抄。
#
# <details><summary>提示：只差一点点</summary>用 repr() 打印出来，数一数换行：角色后面有，<|im_end|> 后面也有，最后的 assistant 后面也有。</details>

# %% exercise="chatml"
def chatml(messages: list[dict]) -> str:
    """ChatML 格式的提示。"""
    ### BEGIN SOLUTION
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"
    ### END SOLUTION

# %% check="chatml"
checks.CHATML(chatml)

# %% [markdown]
# `export.modelfile` 写出 Modelfile 之前，先把 Go 模板和分词器自己的模板在几段对话上各渲染一遍，不同就拒绝。

# %%
print(export.modelfile(merged, ggufs["q8_0"]))

# %% [markdown]
# 在装了 Ollama 的机器上，把它和 GGUF 放在一起，运行 `ollama create poet -f Modelfile`，再 `ollama run poet`。
#
# ## 6 发布到 ModelScope
#
# 发布之前自己先检查，别等别人来报错。先看三个不能发布的文件夹：适配器；刚才 `swift export` 直接写出来的那个；还有一个合并好的模型，但存成几片之后丢了一片，卡片里还留着一个访问令牌 (access token)。
#
# ### 练习 6：缺了哪一片
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★★☆
#
# 分片的模型有一个索引 `model.safetensors.index.json`，其中 `weight_map` 是“张量名 → 文件名”。写 `missing_shards(index, names)`：返回索引里写着、而 `names` 里没有的文件名，排好序，不重复。
#
# <details><summary>提示：同一个名字出现很多次</summary>一片里有许多张量。先放进 set，再 sorted。</details>

# %% exercise="missing_shards"
def missing_shards(index: dict, names: list[str]) -> list[str]:
    """缺少的分片。"""
    ### BEGIN SOLUTION
    return sorted(set(index["weight_map"].values()) - set(names))
    ### END SOLUTION

# %% check="missing_shards"
checks.MISSING_SHARDS(missing_shards)

# %% tags=["volatile"]
broken = output / "broken"
shutil.rmtree(broken, ignore_errors=True)
candidate = export.local(merged)
candidate.model.save_pretrained(broken, max_shard_size="5MB")
candidate.tokenizer.save_pretrained(broken)
token = "hf_" + "x" * 34
(broken / "README.md").write_text(f"---\nlicense: Apache License 2.0\n---\nexport HF_TOKEN={token}\n")
lost = sorted(broken.glob("model-*.safetensors"))[-1]
lost.unlink()
index = json.loads((broken / "model.safetensors.index.json").read_text())
print(f"缺：{checks.missing_shards(index, [file.name for file in broken.iterdir()])}\n")
for folder in (adapter, output / "natural", broken):
    print(f"【{folder.name}】", *export.preflight(folder), sep="\n  ")

# %% [markdown]
# 第二个文件夹里的 `args.json` 是 ms-swift 从训练那里带过来的，写着这台机器上的路径。
#
# 适配器为什么不能单独发布？在 ModelScope 上部署的模型要能独立加载，而适配器里没有底座、分词器和对话模板。所以：先合并，再发布合并后的文件夹。
#
# 还差一张模型卡片 (model card)。卡片里的话要有出处：底座、秩、精度从文件里读，成绩用刚才量到的。

# %% tags=["volatile"]
n = len(exam)
export.write_card(
    merged,
    license="Apache License 2.0",
    training="在 datasets/verse_sft 上用 QLoRA 微调（NF4 底座，r=16，α=32，一轮），再合并进全精度的底座。",
    figures={
        "没见过的题目，贪心解码，形式合格": f"{passed['合并，存成 float32']}/{n}",
        "与底座 + 适配器逐字相同": f"{gate.same_text}/{gate.prompts}",
        "对数概率的最大差别": f"{gate.max_logprob_difference:.1e} 纳特",
    },
    limits="只会写四种诗体；不保证押韵、切题，也不会做别的事。",
)
print((merged / "README.md").read_text().split("## 用法")[0])

# %% [markdown]
# 检查通过以后，先演练 (dry run)：不联网，只说会传什么、不传什么。真正上传时把 `dry_run` 改成 `False`，用的是 ModelScope 自己的客户端。

# %%
problems = export.preflight(merged)
print(f"发布前检查：{len(problems)} 个问题")
print(export.push(merged, "your-name/xiaoshi-poet"))
course.record(preflight_problems=len(problems))

# %% [markdown]
# 有问题的文件夹，就算真的要传也传不上去：在发出第一个字节之前就停下，说明原因。没有登录时也一样。

# %% tags=["volatile"]
try:
    export.push(broken, "your-name/xiaoshi-poet", dry_run=False)
except ValueError as error:
    print(error)

# %% [markdown]
# ## 小结
#
# - 适配器、模型、训练文件夹、不完整：先认清，再动手；路径交给 `resolve` 去找。
# - 合并进全精度没有代价；合并进 4 位舍入两次；要小就先合并再量化，然后重新打分。
# - `swift export` 会从 `args.json` 读回训练时的 4 位设置，`--load_args false` 才是全精度。
# - 闸门按次序问：词元、概率、文字和结束。最早的差别指着原因。
# - GGUF 换了格式也换了实现，float32 下仍是同一个模型；Ollama 的模板要逐字核对。
# - 发布的是完整的模型加卡片；优化器状态、访问令牌、这台机器的路径都不该上去。
#
# ## 思考题
#
# 1. QLoRA 训练时适配器看到的是 4 位的底座，部署时却合并进了 float32 的底座。这算不算“训练和部署不一致”？第 3 节的哪一行回答了它？
# 2. 容差定得太松会放过什么，太紧会误报什么？bfloat16 的服务应该用多大的容差？
# 3. 如果服务只给文字、不给概率，闸门还能发现“上线的是底座”吗？还能发现“精度是 bfloat16”吗？
# 4. 模型卡片里的成绩，别人怎样才能重新量出来？还缺什么信息？
#
# ## 下一步
#
# 第 11 课把合并后的模型和适配器放到 vLLM 服务上，用同一道闸门证明：别人从网址得到的，就是这里的模型。
