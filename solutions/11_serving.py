# %% [markdown]
# {{card}}

# %% [markdown]
# 模型训好了，别人怎么用？答案是一个**服务** (server)：它守着一个端口 (port)，收到问题，写出回答。这一课把第 05 课的适配器真的部署起来，用的是 **vLLM**，说的是 **OpenAI 的格式**，所以任何会用 OpenAI 的程序都能用它。
#
# 路上有四个常见的坑，每一个都在这里踩一遍、填上：
#
# 1. 服务起来了，回答的却是**底座** (base)，或者精度 (dtype) 不对，写出别的字；
# 2. 停不干净：笔记本的内核 (kernel) 重启了，服务还占着内存和端口；
# 3. 客户端的参数放错了地方，没有人理它，也没有人报错；
# 4. 一个人用很快，三十个人一起用就慢得不能用。

# %% tags=["volatile"]
import contextlib

from lab_utils import course, export, models, profile, serving

models.quiet()
setting = profile.current()
output = course.output("11")
base = models.path(setting.sft.model)
adapter = models.shipped_adapter() if setting.name == "cpu" else course.output("05") / "verse"
stack = contextlib.ExitStack()
print(f"配置 {setting.name}：{setting.reason}；底座 {base.name}，{setting.torch_dtype}")

# %% [markdown]
# ## 1 启动一个真的 vLLM
#
# 在终端里，一条命令就够了：`labs serve 模型 --adapter 名字=文件夹`。在笔记本里用 `serving.serve`，它做的是同样的七件事：
#
# | 做什么 | 不做会怎样 |
# | --- | --- |
# | 找到 vLLM：GPU 版或 CPU 版，它住在自己的环境里 | 和 ms-swift 抢同一个包的不同版本 |
# | 适配器预检 (preflight)：秩、`modules_to_save`、是不是这个底座的 | 等一分钟，只得到一长串英文 |
# | 选一个空闲的端口，随机造一把密钥 (API key) | 端口冲突；谁都能用你的模型 |
# | 等它健康 (health)，边等边说走到哪一步 | 请求发早了，被拒绝 |
# | 出错时从日志 (log) 里找出真正的原因 | 只看到 “Engine core initialization failed” |
# | 已知答案检查：和 transformers 写的比一比 | 服务很健康，回答全是错的 |
# | 一定停掉：异常、中断、内核被杀，都一样 | 孤儿进程占着内存 |
#
# 一台服务器可以同时服务底座和好几个适配器，请求里的 `model` 写哪个名字，就由哪个回答。没有 vLLM 的机器，用到它的几格会说明，然后继续。
#
# **先猜一猜**：从敲下回车到能回答，要几秒？其中多少花在读模型上？

# %% tags=["volatile"]
try:
    server = stack.enter_context(serving.serve(
        base, {"poet": adapter}, name="base", log=output / "vllm.log", max_model_len="0.5k",
        structured_outputs_config='{"backend": "xgrammar", "disable_any_whitespace": true}',
    ))
except serving.VllmMissing as missing:
    server = None
    print(missing)
SKIPPED = "这一格要用 vLLM，这台机器上没有，跳过。"

# %% [markdown]
# 模型只有 12 MB，读它不到一秒；时间几乎都花在导入 (import) 上：torch、transformers 和 vLLM 自己加起来有几千个模块。
# 它真正运行的命令如下，复制到终端里，效果相同。只有密钥不在里面：它由环境变量 `VLLM_API_KEY` 传过去，因为别人看得到一个进程的命令行，看不到它的环境变量。

# %% tags=["volatile"]
print(server.command if server else SKIPPED)
if server:
    course.record(start_seconds=server.seconds, dtype=server.dtype)

# %% [markdown]
# ### 两个名字，两个模型
#
# 同一个问题，同样的贪心解码 (greedy decoding)，问 `base` 和 `poet`。回答应当**不同**：如果一样，就是适配器没有装上。

# %% tags=["volatile"]
from lab_utils import verse

def ask(name, question):
    """贪心地问一次，返回回答的文字。"""
    messages = [{"role": "user", "content": question}]
    answer = server.client().chat.completions.create(
        model=name, messages=messages, temperature=0, max_tokens=64
    )
    return answer.choices[0].message.content

first_question = "请写一首五言绝句，题目是《春江》。"
for name in server.names if server else []:
    text = ask(name, first_question)
    print(f"── {name}（五言绝句：{verse.check(text, '五言绝句').form_ok}）\n{text}\n")

# %% [markdown]
# ### 门上的锁
#
# 每个请求都要带上密钥，放在 `Authorization: Bearer …` 里。密钥不对是 401，名字不对是 404。客户端把它们变成异常的类。

# %% tags=["volatile"]
import openai

def attempt(key, name):
    """用这把密钥问这个名字，返回得到的异常或“可以”。"""
    client = openai.OpenAI(
        base_url=server.base_url, api_key=key, max_retries=0,
        http_client=openai.DefaultHttpxClient(trust_env=False),
    )
    try:
        client.completions.create(model=name, prompt="春", max_tokens=1)
    except openai.APIStatusError as error:
        return f"{type(error).__name__}，状态码 {error.status_code}"
    return "可以"

if server:
    print("密钥不对：", attempt("not-the-key", "poet"))
    print("名字不对：", attempt(server.api_key, "gpt-5"))
    print("都对：", attempt(server.api_key, "poet"))
else:
    print(SKIPPED)

# %% [markdown]
# ### 起不来的时候
#
# 常见的错误在启动之前就查得出来：适配器连同整个模块一起训练了 (`modules_to_save`)、用了 DoRA，vLLM 都不能直接服务；适配器和底座的形状对不上；端口已经有人用。下面造三个，看它怎么说。

# %%
import json
import shutil

def try_adapter(name, **changes):
    """把适配器复制一份，改动它的配置，看预检怎么说。"""
    copy = output / name
    shutil.copytree(models.shipped_adapter(), copy, dirs_exist_ok=True)
    config = json.loads((copy / "adapter_config.json").read_text("utf-8"))
    (copy / "adapter_config.json").write_text(json.dumps(config | changes), "utf-8")
    try:
        serving.preflight(copy, models.path(models.SHIPPED))
    except serving.AdapterError as error:
        print(error)

try_adapter("whole_head", modules_to_save=["lm_head"])
try_adapter("dora", use_dora=True)

# %% tags=["volatile"]
try:
    serving.serve(base, port=server.port if server else 1)
except OSError as error:
    print(str(error).replace(str(course.root()), "…"))
except serving.VllmMissing:
    print(SKIPPED)

# %% [markdown]
# ## 2 客户端：请求里写什么
#
# OpenAI 的格式就是 HTTP：往 `/v1/chat/completions` 发一个 JSON，`model` 说谁来答，`messages` 是对话。服务器把对话套进模型的对话模板 (chat template)，变成词元，交给模型。
#
# 有的模板有自己的开关，例如 Qwen3 的 `enable_thinking`：关掉它，模型就不先写 `<think>`。它是**模板的变量**，不是 OpenAI 的字段，所以放在 vLLM 添加的字段 `chat_template_kwargs` 里，和 `messages` 并列。
#
# ### 练习 1：请求体
#
# ⏱ 约 6 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `request_body(model, text, max_tokens, thinking)`，返回请求体 (request body) 的字典：`model`、只有一条用户消息的 `messages`、`max_tokens`；`thinking` 是 `True` 或 `False` 时，再加上 `chat_template_kwargs`，里面是 `enable_thinking`；是 `None` 时不提它。
#
# <details><summary>提示：和网上的例子不一样</summary>网上写的 extra_body={…} 是 openai 库的参数：库会把里面的内容摊到请求体的最外层。这里写的是请求体本身。</details>

# %% exercise="request_body"
def request_body(model: str, text: str, max_tokens: int, thinking: bool | None) -> dict:
    """POST /v1/chat/completions 的请求体。"""
    ### BEGIN SOLUTION
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
    if thinking is not None:
        body["chat_template_kwargs"] = {"enable_thinking": thinking}
    return body
    ### END SOLUTION

# %% check="request_body"
from lab_utils.checks import serving as checks

checks.REQUEST_BODY(request_body)

# %% [markdown]
# 这个请求体，用什么发都行。最朴素的是 `curl`，密钥放在环境变量里：

# %% tags=["volatile"]
import os
import subprocess

from lab_utils.serving import clients

if server:
    body = clients.request_body("poet", "请写一首七言绝句，题目是《秋夜》。", 64) | {"temperature": 0}
    command = clients.curl(server.base_url, body)
    print(command, "\n")
    answer = subprocess.run(
        command, shell=True, capture_output=True, text=True,
        env={**os.environ, "OPENAI_API_KEY": server.api_key},
    ).stdout
    print(json.dumps(json.loads(answer)["choices"], ensure_ascii=False, indent=1)[:400])
else:
    print(SKIPPED)

# %% [markdown]
# 写程序时用 `openai` 这个库。`extra_body` 里的内容会摊到请求体的最外层，于是和上面的请求体一模一样：

# %% tags=["volatile"]
if server:
    answer = server.client().chat.completions.create(
        model="poet",
        messages=[{"role": "user", "content": first_question}],
        temperature=0,
        max_tokens=64,
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    print(answer.choices[0].message.content)
    print(answer.choices[0].finish_reason, answer.usage.completion_tokens, "个词元")
else:
    print(SKIPPED)

# %% [markdown]
# ### 开关有没有用
#
# 没有报错，是不是就关掉了思考？**不是**：模板不认识的变量，会被一声不响地丢掉。先问一问模板认不认识它。小诗的模板不认识；下面另写一个认识的，对照着看。

# %%
THINKER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
print("底座的模板认识 enable_thinking：", clients.template_knows(base, "enable_thinking"))
print("另写的模板认识的变量：", sorted(clients.template_variables(THINKER)))

# %% [markdown]
# 关掉思考，认识它的模板会替模型写好一对空的 `<think>`，让它直接作答：

# %%
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(base)
for template in (None, THINKER):
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1+1=?"}], tokenize=False, add_generation_prompt=True,
        chat_template=template, enable_thinking=False,
    )
    print("另写的模板：" if template else "小诗的模板：", repr(prompt))

# %% [markdown]
# 服务器那边也是一样：`/tokenize` 走的是同一个模板，关不关思考，小诗看到的词元没有差别。

# %% tags=["volatile"]
import httpx

def prompt_ids(**extra):
    """服务器为这个问题准备的提示词的词元编号。"""
    asked = {"model": "poet", "messages": [{"role": "user", "content": first_question}], **extra}
    address = server.base_url.removesuffix("/v1") + "/tokenize"
    headers = {"Authorization": f"Bearer {server.api_key}"}
    return httpx.post(address, json=asked, headers=headers, trust_env=False).json()["tokens"]

if server:
    plain, thinking_off = prompt_ids(), prompt_ids(chat_template_kwargs={"enable_thinking": False})
    print(f"不提：{len(plain)} 个词元；关掉思考：{len(thinking_off)} 个；一样：{plain == thinking_off}")
else:
    print(SKIPPED)

# %% [markdown]
# ### 流式：写一个字，到一个字
#
# 一首诗要等全部写完才看得到？加上 `"stream": true`，服务器就一段一段地发来，格式叫 SSE (server-sent events)：一行 `data: ` 加一段 JSON，隔一个空行；最后是 `data: [DONE]`。先看看原样：

# %% tags=["volatile"]
import re

raw_lines = []
if server:
    body = clients.request_body("poet", first_question, 64) | {
        "temperature": 0, "stream": True, "stream_options": {"include_usage": True}
    }
    headers = {"Authorization": f"Bearer {server.api_key}"}
    address = f"{server.base_url}/chat/completions"
    with httpx.stream("POST", address, json=body, headers=headers, trust_env=False) as reply:
        raw_lines = list(reply.iter_lines())
    for line in raw_lines[:6] + ["……"] + raw_lines[-5:]:
        print(re.sub(r'\{"id".*?"choices"', '{…"choices"', line)[:110])
else:
    print(SKIPPED)

# %% [markdown]
# ### 练习 2：读一行
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★☆
#
# 写 `stream_text(line)`：一行里的文字。文字在 JSON 的 `choices[0].delta.content`。没有文字的行（空行、只有 `role`、`content` 是 null、`choices` 是空列表的用量行）返回 `""`；结束标记 `data: [DONE]` 返回 `None`。
#
# <details><summary>提示：JSONDecodeError</summary>`[DONE]` 不是 JSON。空行也不是。</details>
# <details><summary>提示：IndexError</summary>最后的用量 (usage) 事件里，choices 是空列表。</details>

# %% exercise="stream_text"
import json

def stream_text(line: str) -> str | None:
    """流的一行里的文字；流结束了返回 None。"""
    ### BEGIN SOLUTION
    if not line.startswith("data:"):
        return ""
    data = line.removeprefix("data:").strip()
    if data == "[DONE]":
        return None
    choices = json.loads(data)["choices"]
    return (choices[0]["delta"].get("content") or "") if choices else ""
    ### END SOLUTION

# %% check="stream_text"
checks.STREAM_TEXT(stream_text)

# %% [markdown]
# 库替你做的就是这件事。下面用 `openai` 流式地要，每一段之间画一条竖线：一段就是一个词元。

# %% tags=["volatile"]
if server:
    messages = [{"role": "user", "content": "请写一首五言律诗，题目是《望月》。"}]
    for piece in clients.pieces(server.client(), "poet", messages, temperature=0, max_tokens=80):
        print(piece, end="|" if "\n" not in piece else "", flush=True)
    print("\n\n由原样的行拼出来：", "".join(clients.stream_text(line) or "" for line in raw_lines))
else:
    print(SKIPPED)

# %% [markdown]
# ### LangChain
#
# 应用框架也一样，只要换掉 `base_url`。第 12 课的 RAG 和智能体 (agent) 就这样接上自己的模型。

# %% tags=["volatile"]
if server:
    from langchain_openai import ChatOpenAI

    poet = ChatOpenAI(
        model="poet", base_url=server.base_url, api_key=server.api_key, temperature=0, max_tokens=64,
        http_client=httpx.Client(trust_env=False),
        extra_body={"chat_template_kwargs": {"enable_thinking": False}},
    )
    reply = poet.invoke(first_question)
    print(reply.content, reply.response_metadata["finish_reason"])
else:
    print(SKIPPED)

# %% [markdown]
# ### 结构化输出：让它只能这样写
#
# 程序要读的回答，格式不能错。vLLM 可以在解码的每一步，把不合格式的词元的概率置零：正则表达式 (regex)、选项 (choice)、JSON Schema 都行，写在 `structured_outputs` 里（JSON Schema 也可以用 OpenAI 的 `response_format`）。
#
# **先猜一猜**：底座从来不写绝句。用正则表达式管住它的格式，它写得出五言绝句吗？

# %% tags=["volatile"]
WUJUE = "[一-龥]{5}，[一-龥]{5}。\n[一-龥]{5}，[一-龥]{5}。"

def constrained(name, question, **outputs):
    """在格式的约束下回答。"""
    answer = server.client().chat.completions.create(
        model=name, messages=[{"role": "user", "content": question}],
        temperature=0, max_tokens=96, extra_body={"structured_outputs": outputs},
    )
    return answer.choices[0].message.content

if server:
    for name in server.names:
        text = constrained(name, first_question, regex=WUJUE)
        found = verse.check(text, "五言绝句")
        print(f"── {name}：形式对 {found.form_ok}，押韵 {found.rhyme_ok}\n{text}\n")
else:
    print(SKIPPED)

# %% [markdown]
# 形式对了，是因为别的词元根本不许写；押不押韵、切不切题，格式管不了。**约束管形式，训练管内容。** 再试选项：

# %% tags=["volatile"]
lines = ("白日依山尽，黄河入海流。", "朝辞白帝彩云间，千里江陵一日还。")
for line in lines if server else []:
    print(line, "→", constrained("poet", f"“{line}”是哪一种诗体？", choice=list(verse.FORMS)))

# %% [markdown]
# 回答一定是四个选项之一，可是小诗没有学过辨认诗体，七言的也说成五言：约束给不了它没有的知识。最后是 JSON：

# %% tags=["volatile"]
line_of_five = {"type": "string", "pattern": "^[一-龥]{5}$"}
SCHEMA = {
    "type": "object",
    "properties": {
        "题目": {"type": "string", "pattern": "^[一-龥]{2}$"},
        "句": {"type": "array", "minItems": 4, "maxItems": 4, "items": line_of_five},
    },
    "required": ["题目", "句"],
    "additionalProperties": False,
}
for name in server.names if server else []:
    text = constrained(name, "请写一首五言绝句，题目是《江雪》。", json=SCHEMA)
    print(name, json.loads(text))

# %% [markdown]
# 启动时写了 `disable_any_whitespace`，就是为了 JSON：标准允许在标点之间写任意多的空白，小模型会钻进去，一直写换行，写到 `max_tokens` 为止。读不出来的 JSON，多半是这样来的。
#
# ### 聊天页
#
# 给人用的，是一个页面。在 JupyterLab 里运行下面这一格，可以直接和它聊，也可以换成底座再问一遍。

# %% tags=["volatile"]
from lab_utils import widgets

if server:
    page = widgets.chat_page(server, "和小诗聊天", temperature=0.7, max_tokens=80)
    page.say("请写一首七言绝句，题目是《春江》。", "poet")
    page.say("请写一首五言绝句，题目是《松》。")
else:
    page = SKIPPED
page

# %% [markdown]
# ## 3 长度：32k 和 32K
#
# 启动时有一个参数 `--max-model-len`：提示词和回答加起来，最多几个词元。它越大，一个请求可能占的 KV 缓存就越多。
# vLLM 认得带字母的写法，而且**分大小写**：`32k` 是 32,000，`32K` 是 32,768。差 768 个词元，够让一个“正好 32K”的请求被拒绝。
#
# ### 练习 3：它认作几个词元
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★☆☆
#
# 写 `length_tokens(text)`：`"32k"` → 32000，`"32K"` → 32768，`"25.6k"` → 25600，`"4096"` → 4096。

# %% exercise="length_tokens"
def length_tokens(text: str) -> int:
    """--max-model-len 的这个写法是几个词元。"""
    ### BEGIN SOLUTION
    units = {"k": 1000, "K": 1024}
    if text[-1] in units:
        return int(float(text[:-1]) * units[text[-1]])
    return int(text)
    ### END SOLUTION

# %% check="length_tokens"
checks.LENGTH_TOKENS(length_tokens)

# %% [markdown]
# 第 1 节启动时写的是 `max_model_len="0.5k"`。它把这认作几？问它自己。再发两个长请求：提示词 448 个词元、要写 64 个；提示词 512 个。
#
# **先猜一猜**：两个都会被拒绝吗？

# %% tags=["volatile"]
if server:
    known = {model.id: model.to_dict().get("max_model_len") for model in server.client().models.list()}
    print("它认作：", known["base"], "；公式：", clients.length_tokens("0.5k"))
    asking = dict(model="base", max_tokens=64, temperature=0, extra_body={"ignore_eos": True})
    long_one = server.client().completions.create(prompt=[100] * 448, **asking)
    print(f"448 + 64：写了 {long_one.usage.completion_tokens} 个就停了，{long_one.choices[0].finish_reason}")
    try:
        server.client(max_retries=0).completions.create(prompt=[100] * 512, **asking)
    except openai.BadRequestError as error:
        print("512：", error.body["message"][:160])
else:
    print(SKIPPED)

# %% [markdown]
# 提示词放不下才会报错；提示词放得下、回答放不下，它就**悄悄地写短**，只在 `finish_reason` 里说一声 `length`。看到回答没有写完，先看它。

# %% [markdown]
# ## 4 是同一个模型吗
#
# “回答看起来不错”不是证据。第 10 课的闸门 (parity gate) 把服务器和 transformers 放在一起，逐条比三样：提示词的词元、下一个词元的对数概率、贪心解码的文字。50 条提示，一条也不能差。

# %% tags=["volatile"]
from lab_utils.evaluation.verse_exam import held_out_questions

questions = [row["messages"][0]["content"] for row in held_out_questions(per_form=13)][:50]
tuned = export.local(base, adapter, dtype=setting.torch_dtype)
if server:
    gate = export.parity(tuned, server.candidate("poet"), questions, dtype=setting.torch_dtype)
    print(gate)
    course.record(parity_adapter=gate.same_text, parity_prompts=gate.prompts)
else:
    print(SKIPPED)

# %% [markdown]
# 闸门会不会总是说“相同”？把名字写错，让**底座**来冒充，它应当当场指出来：

# %% tags=["volatile"]
print(export.parity(tuned, server.candidate("base"), questions[:5], dtype=setting.torch_dtype) if server else SKIPPED)

# %% [markdown]
# 再部署**合并** (merge) 后的模型。第 10 课说过：适配器和合并后的权重在数学上是一回事，服务起来也应当写出一样的字。
# 先停掉第一个服务器。停没停干净，不要猜，看进程和端口。

# %% tags=["volatile"]
from lab_utils.guard import session_members

def traces(server):
    """服务器的进程号，和它的端口还有没有人应答。"""
    return session_members(server.pid), serving.healthy(server.port)

if server:
    print("停之前：", "%d 个进程，端口应答 %s" % (len(traces(server)[0]), traces(server)[1]))
    server.stop()
    print("停之后：", traces(server))
else:
    print(SKIPPED)

# %% tags=["volatile"]
merged = export.merge(base, adapter, output / "merged", dtype=setting.torch_dtype)
if server:
    server = stack.enter_context(serving.serve(
        merged, name="poet", log=output / "vllm_merged.log", max_model_len=500
    ))
    gate = export.parity(tuned, server.candidate("poet"), questions, dtype=setting.torch_dtype)
    print(gate)
    course.record(parity_merged=gate.same_text)
else:
    print(SKIPPED)

# %% [markdown]
# 底座加适配器（transformers）、vLLM 的适配器、vLLM 的合并模型：三个是同一个模型。
#
# 精度也要紧。课程在 CPU 上用 float32：同样的权重换成 bfloat16，只是舍入 (rounding)，对数概率就会差出零点零几到零点二纳特，贪心解码在两个字几乎一样可能的地方就走上岔路。那不是错，但也就**证明不了相同**。
#
# ### 杀不死的才是坑
#
# 还有一种停法：内核被杀 (`kill -9`)，没有机会收拾。`serve` 启动的其实是一个守护进程 (guard)，它握着通向内核的一根管道 (pipe)；内核一死，管道就断，它就杀掉整个会话 (session) 的进程。
# 下面让另一个 Python 启动服务器，在它启动到一半时杀掉那个 Python：

# %% tags=["volatile"]
import sys
import time

import psutil

if server:
    code = "from lab_utils import serving; serving.serve('xiaoshi-base', check=False)"
    kernel = psutil.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    while not kernel.children():
        time.sleep(0.2)
    time.sleep(3)
    started = kernel.children(recursive=True)
    print(f"它启动了 {len(started)} 个进程")
    kernel.kill()
    kernel.wait()
    gone, alive = psutil.wait_procs(started, timeout=5)
    print(f"杀掉它以后：消失 {len(gone)} 个，还在 {len(alive)} 个")
else:
    print(SKIPPED)

# %% [markdown]
# ## 5 自己写一个服务
#
# 在 vLLM 之前，人人都先写过这样一个服务：用 FastAPI 收请求，交给 transformers 的 `generate`，把结果装进 OpenAI 的格式。课程也写了一个，在 `lab_utils.serving.wrapper`。
# 它不长，可是一个服务该有的礼数都有：
#
# | 情形 | 回答 |
# | --- | --- |
# | 没有密钥或密钥不对 | 401 `invalid_api_key` |
# | 没有这个模型 | 404 `model_not_found` |
# | 参数不对、不支持、提示太长 | 400，`param` 说是哪一个参数 |
# | 请求体太大 | 413 |
# | 排队的人太多 | 429，`Retry-After` 说几秒后再来 |
# | 模型自己出错 | 500，别的请求不受影响 |
#
# 它在自己的进程里运行，用完一定停掉。先让它带着合并后的模型启动。

# %% tags=["volatile"]
from lab_utils.serving import wrapper

naive = stack.enter_context(wrapper.serve(merged, name="poet"))
client = naive.client(max_retries=0)
print(naive.base_url, [model.id for model in client.models.list()])

# %% [markdown]
# 说 OpenAI 话的客户端 (client) 都能用它。温度 (temperature) 为 0，流式 (streaming) 地要：写一个字，到一个字。

# %%
asking = [{"role": "user", "content": first_question}]
for event in client.chat.completions.create(
    model=naive.model, messages=asking, temperature=0, stream=True
):
    print(event.choices[0].delta.content or "", end="")

# %% [markdown]
# 客户端的库把状态码变成异常的类。程序靠类和 `code` 决定怎么办，`message` 是给人看的。
#
# **先猜一猜**：下面四个请求，各是什么错误？

# %%
import openai

stranger = openai.OpenAI(base_url=naive.base_url, api_key="不对的密钥".encode().hex(), max_retries=0)
attempts = {
    "密钥不对": lambda: stranger.models.list(),
    "模型名写错": lambda: client.chat.completions.create(model="gpt-5", messages=asking),
    "温度太高": lambda: client.chat.completions.create(model=naive.model, messages=asking, temperature=9),
    "要用工具": lambda: client.chat.completions.create(model=naive.model, messages=asking, tools=[]),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except openai.APIStatusError as error:
        print(f"{name}：{type(error).__name__} {error.status_code} code={error.code}\n  {error.body['message']}")

# %% [markdown]
# 注意最后一个：做不到的事要**拒绝**，不能装作没看见。悄悄丢掉 `tools` 的服务，会让调用它的程序错得莫名其妙。
#
# 那么，这个服务和 vLLM 差在哪里？
#
# | vLLM 做的 | 这个服务 |
# | --- | --- |
# | 连续批处理 (continuous batching)：许多请求一起写，随到随进、写完就走 | 一次只写一个，别人排队 |
# | PagedAttention：KV 缓存分页，按需取用 | 每个请求一整块 |
# | 前缀缓存 (prefix caching)：相同的开头只算一次 | 每次从头算 |
# | 分块预填充 (chunked prefill)：长提示不堵住别人 | 长提示堵住所有人 |
# | 一台服务器，底座和多个适配器 | 一个名字 |
# | 结构化输出、工具调用、`logprobs`、`/v1/completions`、嵌入 | 只有对话 |
# | 张量并行、量化权重、GPU 专用算子 | 一个进程，float32 |
# | Prometheus 指标、请求的优先级与取消、抢占 | 只有取消 |
#
# 表里的前两行决定了快慢。下面量一量，再弄懂为什么。

# %% [markdown]
# ## 6 压力测试
#
# 三个选手，同样的请求，贪心 (greedy) 解码，所以每个人要写的词元也应当相同：
#
# - **包装**：上面的服务，一次写一个；
# - **批处理**：没有服务器，直接把一批提示填充成一样长，交给 `generate`；
# - **vLLM**：第 4 节启动的服务器。
#
# 负载是同时 1、8、32 个请求。每个请求记下三种时刻：什么时候发出、每一段文字什么时候到、什么时候结束。由此得到：
#
# - **TTFT** (time to first token)：从发出到第一段文字。批处理要等整批写完才交货，所以它的 TTFT 就是整批的用时；
# - **词元间隔** (inter-token latency)：相邻两段文字之间；
# - **吞吐** (throughput)：所有请求的词元数，除以从第一个发出到最后一个结束的秒数。
#
# ### 练习 4：从时刻到延迟
#
# ⏱ 约 5 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `first_and_gap(sent, pieces)`：`sent` 是发出的时刻，`pieces` 是每段文字到达的时刻（至少一个），单位秒。返回 `(TTFT, 平均间隔)`；只有一段文字时，间隔是 0.0。
#
# <details><summary>提示：除以零了</summary>n 段文字之间有几个间隔？n = 1 时呢？</details>

# %% exercise="first_and_gap"
def first_and_gap(sent: float, pieces: list[float]) -> tuple[float, float]:
    """(TTFT, 平均词元间隔)，单位秒。"""
    ### BEGIN SOLUTION
    gaps = [after - before for before, after in zip(pieces, pieces[1:])]
    return pieces[0] - sent, sum(gaps) / len(gaps) if gaps else 0.0
    ### END SOLUTION

# %% check="first_and_gap"
checks.FIRST_AND_GAP(first_and_gap)

# %% [markdown]
# ### 练习 5：最慢的那几个人
#
# ⏱ 约 5 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 平均数会骗人：32 个人里 30 个等 0.1 秒、2 个等 10 秒，平均才 0.7 秒。服务的延迟要看百分位 (percentile)：p50 是中间的人，p95 是慢的人。
# 写 `percentile(values, q)`：从小到大排好，第 $\lceil q/100\cdot n\rceil$ 个（从 1 数起）。它总是一个真的量到过的值。

# %% exercise="percentile"
import math

def percentile(values: list[float], q: float) -> float:
    """至少有 q% 的数不超过它的那个最小的数。"""
    ### BEGIN SOLUTION
    rank = math.ceil(q / 100 * len(values))
    return sorted(values)[max(1, rank) - 1]
    ### END SOLUTION

# %% check="percentile"
checks.PERCENTILE(percentile)

# %% [markdown]
# 现在量。失败的请求也记下来：一个丢了一半请求的服务器，看起来总是很快。
#
# **先猜一猜**：32 个请求一起来，包装的吞吐是 1 个请求时的几倍？vLLM 呢？

# %% tags=["volatile"]
from lab_utils.serving import load

crowd = [row["messages"][0]["content"] for row in held_out_questions(per_form=8)]
loads = {1: crowd[:4], 8: crowd[:8], 32: crowd}
NAIVE, BATCHED, VLLM = "包装（一次一个）", "transformers 批处理", "vLLM"

def under_load(name, server):
    """一个服务器在三种负载下的成绩。先热身，不计入。"""
    where = (server.base_url, server.api_key, "poet")
    load.measure(*where, crowd, 32, max_tokens=4, progress=None)
    return [load.measure(*where, prompts, n, max_tokens=64, name=name) for n, prompts in loads.items()]

tests = under_load(NAIVE, naive)

# %% [markdown]
# 批处理不经过服务器，在这本笔记里直接跑。

# %% tags=["volatile"]
model, tokenizer = models.load(str(merged))
load.measure_batches(model, tokenizer, crowd, 32, max_tokens=4, progress=None)
for n, prompts in loads.items():
    tests.append(load.measure_batches(model, tokenizer, prompts, n, max_tokens=64, name=BATCHED))

# %% [markdown]
# 每个选手都先热身 (warm-up)：第一次运行总要多花时间。最后是 vLLM。

# %% tags=["volatile"]
if server:
    tests += under_load(VLLM, server)
else:
    print(SKIPPED)
load.table(tests)

# %% [markdown]
# 先看公平不公平：词元数相同吗？同一个问题，三家写的诗相同吗？

# %% tags=["volatile"]
busiest = {test.name: test for test in tests if test.concurrency == 32}
poems = {name: [trace.text for trace in test.traces] for name, test in busiest.items()}
for name, test in busiest.items():
    same = sum(a == b for a, b in zip(poems[name], poems[NAIVE]))
    print(f"{name}：{test.tokens} 个词元，失败 {len(test.failures)} 个，与包装相同 {same} / {len(crowd)}")

# %% [markdown]
# 左图是吞吐，越高越好；右图是慢的人等第一个字的时间，越低越好。

# %% tags=["volatile"]
import matplotlib.pyplot as plt

from lab_utils import plots

plots.use_course_style()
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.5))
plots.load_bars(left, tests, "tokens_per_second", "词元 / 秒")
plots.load_bars(right, tests, "ttft_p95", "TTFT p95（秒）")
left.set_title("人越多，谁的吞吐跟着涨", fontsize=11)
right.set_title("人越多，谁让人久等", fontsize=11)
left.legend(frameon=False, fontsize=9);

# %% tags=["volatile"]
speed = {(test.name, test.concurrency): test.summary()["tokens_per_second"] for test in tests}
first = {test.name: test.summary()["ttft_p95"] for test in tests if test.concurrency == 32}
for name in busiest:
    growth = speed[name, 32] / speed[name, 1]
    print(f"{name}：32 个请求时的吞吐是 1 个时的 {growth:.1f} 倍，是包装的 {speed[name, 32] / speed[NAIVE, 32]:.1f} 倍")
course.record(
    tokens_per_second={f"{name} @ {concurrency}": value for (name, concurrency), value in speed.items()},
    speedup_at_32={name: speed[name, 32] / speed[NAIVE, 32] for name in busiest},
    ttft_p95_at_32=first,
    failed_requests=sum(len(test.failures) for test in tests),
)

# %% [markdown]
# 把 32 个请求一个一个画出来，一眼就明白：一行一个请求，橙色在等，蓝色在收。
# 包装是一条队，最后一个人等前面所有人写完；vLLM 让大家一起写，谁也不用等谁。

# %% tags=["volatile"]
contestants = [name for name in (NAIVE, VLLM) if name in busiest]
fig, panels = plt.subplots(1, len(contestants), figsize=(9.5, 3.8), sharex=True, squeeze=False)
longest = max(busiest[name].seconds for name in contestants)
for panel, name in zip(panels[0], contestants):
    plots.request_timeline(panel, busiest[name], longest)
    panel.set_title(f"{name}：{busiest[name].seconds:.1f} 秒", fontsize=11)
panels[0][-1].legend(frameon=False, loc="center right");

# %% [markdown]
# 批处理的吞吐也很高，为什么还要 vLLM？因为它占了便宜：32 个请求要同时到齐，还要等最长的一个写完才交货，谁也看不到中间的字。
# 真实的请求是陆续来的，长短也不同。下面用一个小模拟看清楚。

# %% [markdown]
# ## 7 为什么快（一）：连续批处理
#
# 解码 (decoding) 一步，要把全部权重从内存里读一遍；读一遍给 1 个请求用，还是给 32 个请求用，时间差不多。所以吞吐来自**一步里有多少个请求在写**。
# 模拟里时间按步算：一步给每个在槽位 (slot) 里的请求写一个词元。
#
# - **静态批处理** (static batching)：凑一批，等最长的写完，再凑下一批；
# - **连续批处理**：每一步都看一看，谁写完了，空出的槽位马上给排队的人。
#
# ### 练习 6：连续批处理要几步
#
# ⏱ 约 8 分钟 · 难度 ★★☆ · 重要 ★★★
#
# 写 `continuous_steps(lengths, slots)`：请求按次序，每一个都去最早空出来的槽位，马上开始。全部写完要几步？
#
# <details><summary>提示：从哪里开始</summary>用一个列表记住每个槽位在第几步空出来，开始时全是 0。</details>
# <details><summary>提示：比 sum(lengths) / slots 还小</summary>一个请求不能切开，分给两个槽位写。</details>

# %% exercise="continuous_steps"
def continuous_steps(lengths: list[int], slots: int) -> int:
    """连续批处理的总步数。"""
    ### BEGIN SOLUTION
    free_at = [0] * slots
    for length in lengths:
        slot = free_at.index(min(free_at))
        free_at[slot] += length
    return max(free_at)
    ### END SOLUTION

# %% check="continuous_steps"
checks.CONTINUOUS_STEPS(continuous_steps)

# %% [markdown]
# 现在让请求陆续到达，长短不一（都按固定的随机种子），4 个槽位，两种办法各画一条时间线。**先猜一猜**：槽位的利用率各是多少？

# %% tags=["volatile"]
from lab_utils.serving import scheduling

jobs = scheduling.random_jobs(count=24, every=1.5, mean_length=12, seed=0)
static = scheduling.static_batching(jobs, slots=4)
continuous = scheduling.continuous_batching(jobs, slots=4)
fig, panels = plt.subplots(2, 1, figsize=(9, 4.6), sharex=True)
for panel, (name, plan) in zip(panels, {"静态批处理": static, "连续批处理": continuous}.items()):
    plots.batching_timeline(panel, plan, steps=static.makespan)
    panel.set_title(
        f"{name}：{plan.makespan} 步做完，利用率 {plan.utilization:.0%}，平均延迟 {plan.mean_latency:.0f} 步",
        fontsize=11,
    )
panels[0].set_xlabel("")
panels[1].legend(*panels[0].get_legend_handles_labels(), frameon=False, loc="center right");

# %% [markdown]
# 斜线是浪费：请求写完了，槽位还陪着同批最长的那一个。最左边还有一种浪费：第 0 个请求先到，独自占了一批，晚来一步的人只好等它写完。
#
# 一次偶然不算数。换 200 个随机种子，看提高了多少。

# %%
gains = []
for seed in range(200):
    some = scheduling.random_jobs(count=24, every=1.5, mean_length=12, seed=seed)
    gains.append(
        scheduling.static_batching(some, 4).makespan / scheduling.continuous_batching(some, 4).makespan
    )
print(f"连续批处理快 {sum(gains) / len(gains):.2f} 倍（200 次平均），最少 {min(gains):.2f} 倍")

# %% [markdown]
# ## 8 为什么快（二）：分页的 KV 缓存
#
# 一步里能放多少个请求，要看内存放不放得下它们的 KV 缓存 (KV cache)：每个词元在每一层、每个 KV 头上，都要存一个键 (key) 向量和一个值 (value) 向量。
#
# ### 练习 7：一个词元几个字节
#
# ⏱ 约 4 分钟 · 难度 ★☆☆ · 重要 ★★★
#
# 写 `kv_bytes_per_token(layers, kv_heads, head_dim, dtype_bytes)`。

# %% exercise="kv_bytes_per_token"
def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, dtype_bytes: int) -> int:
    """KV 缓存里一个词元占的字节数。"""
    ### BEGIN SOLUTION
    return 2 * layers * kv_heads * head_dim * dtype_bytes
    ### END SOLUTION

# %% check="kv_bytes_per_token"
checks.KV_BYTES_PER_TOKEN(kv_bytes_per_token)

# %% [markdown]
# 公式对不对，拿真的缓存量一量：让小诗读一段提示，数一数它的缓存里有多少字节。

# %%
import torch

from lab_utils import vram

ids = tokenizer("春眠不觉晓，处处闻啼鸟。", return_tensors="pt").input_ids
with torch.no_grad():
    cache = model(ids, use_cache=True).past_key_values
held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
each = vram.kv_bytes_per_token(model.config, dtype_bytes=4)
print(f"缓存里 {held} 字节 ÷ {ids.shape[1]} 个词元 = {held // ids.shape[1]}；公式：{each}")

# %% [markdown]
# 难处在于：请求进来时，谁也不知道它会写多长。老办法是按最长的可能**整块预留** (contiguous)；PagedAttention 像操作系统管内存那样，把缓存切成小块 (block)，写满一块再要一块。
#
# ### 练习 8：要几块
#
# ⏱ 约 4 分钟 · 难度 ★★☆
#
# 写 `blocks_needed(lengths, block_size)`：这些请求各有这么多词元，每块 `block_size` 个位置，一块只属于一个请求。一共要几块？

# %% exercise="blocks_needed"
def blocks_needed(lengths: list[int], block_size: int) -> int:
    """分页时一共占几块。"""
    ### BEGIN SOLUTION
    return sum(-(-length // block_size) for length in lengths)
    ### END SOLUTION

# %% check="blocks_needed"
checks.BLOCKS_NEEDED(blocks_needed)

# %% [markdown]
# 同一块内存，1024 个位置，同一队请求，两种办法各放得下几个？每一格是几个位置，数字是请求的编号。
#
# **先猜一猜**：最长 256，平均约 45，老办法放得下 4 个。分页呢？

# %% tags=["volatile"]
import numpy as np

draws = np.random.default_rng(0).exponential(45, 60)
lengths = np.ceil(draws).clip(8, 256).astype(int).tolist()
reserved = scheduling.contiguous_memory(lengths, places=1024, max_length=256)
paged = scheduling.paged_memory(lengths, places=1024, block_size=16)
fig, panels = plt.subplots(1, 2, figsize=(9.5, 3.8))
plots.memory_map(panels[0], reserved, per_row=64, unit=256)
plots.memory_map(panels[1], paged, per_row=64, unit=16)
panels[0].set_title(f"整块预留 256 个位置：\n{reserved.admitted} 个请求，浪费 {reserved.waste:.0%}", fontsize=11)
panels[1].set_title(f"分页，每块 16 个位置：\n{paged.admitted} 个请求，浪费 {paged.waste:.0%}", fontsize=11)
fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False);

# %% [markdown]
# 分页时，一个请求的块散在各处，由一张块表 (block table) 记着次序；浪费的只有每个请求最后半块。同样的内存放下的请求多了几倍，一步里一起写的也就多了几倍：两个“为什么”合在一起，就是上面量到的倍数。

# %% tags=["volatile"]
course.record(
    static_utilisation=static.utilization,
    continuous_utilisation=continuous.utilization,
    kv_waste_contiguous=reserved.waste,
    kv_waste_paged=paged.waste,
    requests_fit={"contiguous": reserved.admitted, "paged": paged.admitted},
)
stack.close()
print("服务都停了：", server is None or not server.running)

# %% [markdown]
# ## 9 ms-swift 的部署命令
#
# ms-swift 也能部署，`swift deploy` 的参数和训练时一样，好处是模板、适配器都按训练时的规矩来。`--infer_backend` 选谁来写：`transformers` 就是自己一个一个地写，`vllm` 就是这一课的 vLLM。
# 一次性地答一份考卷用 `swift infer`，同样可以选 vLLM，比逐条快得多（要在装有 vLLM 的环境里运行）。

# %% tags=["volatile"]
from lab_utils import swift

kind = swift.model_flags(setting.sft.model)
serving_flags = dict(torch_dtype=setting.torch_dtype, host="127.0.0.1", port=8000, served_model_name="poet")
print(swift.command("deploy", model=merged, infer_backend="vllm", **serving_flags, **kind), "\n")
print(swift.command("deploy", model=base, adapters=adapter, infer_backend="transformers", **serving_flags, **kind), "\n")
print(swift.command("infer", model=merged, infer_backend="vllm", val_dataset="exam.jsonl", **kind))

# %% [markdown]
# `swift deploy` 会一直运行，所以在终端里用；在笔记本里用 `serving.serve`，它保证停得掉。
#
# ## 10 换到 GPU
#
# 有显卡时，`serving.serve` 找到的是普通的 vLLM：bfloat16，显存按 `gpu_memory_utilization` 划走，`--enforce-eager` 也不要了，CUDA 图会让小批量快很多。Qwen3 的模板认识 `enable_thinking`，第 2 节的开关就真的有用。

# %% tags=["volatile"]
if setting.name == "gpu":
    with serving.serve("Qwen3-0.6B", max_model_len="8K", gpu_memory_utilization=0.5) as big:
        for thinking in (True, False):
            body = clients.request_body(big.names[0], "9.11 和 9.9 哪个大？", 512, thinking)
            extra = {"chat_template_kwargs": body.pop("chat_template_kwargs")}
            answer = big.client().chat.completions.create(**body, extra_body=extra)
            print(thinking, answer.usage.completion_tokens, answer.choices[0].message.content[-200:])
else:
    print("这台机器用 CPU。有 GPU 时，这一格部署 Qwen3-0.6B，比较打开和关掉思考。")

# %% [markdown]
# ## 小结
#
# - 部署不是“起来了”就完：要**等健康、验答案、停干净**。健康的服务也可能在用底座回答。
# - 一台 vLLM 服务底座和许多适配器，请求里的 `model` 决定谁来答；秩、`modules_to_save`、DoRA 在启动前就要查。
# - `chat_template_kwargs` 和 `messages` 并列；模板不认识的变量会被悄悄丢掉，先问模板。
# - 约束管形式，训练管内容。
# - 闸门给出证据：transformers、vLLM 的适配器、vLLM 的合并模型，50 条提示，一字不差。
# - 快，来自一步里有许多请求在写：连续批处理让槽位不空着，分页的 KV 缓存让槽位多起来。
#
# ## 思考题
#
# 1. 100 个客户各有一个适配器，秩都是 16。全部合并成 100 个模型，还是一台服务器带 100 个适配器？算一算内存，再想想速度。
# 2. 压力测试里每个请求的提示都差不多长。如果混进一个 400 个词元的提示，别人的词元间隔会怎样？分块预填充 (chunked prefill) 为什么有用？
# 3. 为什么 1 个请求时 vLLM 的吞吐不一定更高？
# 4. 正则表达式约束下，底座写的“绝句”押韵吗？怎样才能连押韵也管住？
# 5. 服务器在别人的机器上，密钥泄露了，怎么办？
#
# ## 下一步
#
# 把 `labs serve` 在终端里跑起来，用自己喜欢的客户端连上它。下一课用这样的服务做应用：检索增强 (RAG)、智能体和演示页面。
