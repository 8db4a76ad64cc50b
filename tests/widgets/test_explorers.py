"""The explorers: what they show equals what the libraries say, in every front end and in none."""

import gc
import os
import queue
import re
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from lab_utils import lowrank, models, params, quant, vram, widgets
from lab_utils.widgets.front_end import VIEW

TINY = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 176,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def weights():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 50, generator=generator) * 0.02


@pytest.fixture(scope="module")
def picture():
    """A smooth picture with a little noise, (48, 64): its singular values fall fast, none is zero."""
    y, x = np.mgrid[0:48, 0:64] / 48
    noise = np.random.default_rng(0).normal(0, 0.02, x.shape)
    return np.sin(6 * x) * np.cos(4 * y) + x * y + noise


@pytest.fixture(params=["parameters", "rank", "nf4", "memory"])
def explorer(request, weights, picture):
    """Each of the four explorers, and a setting other than the first."""
    makers = {
        "parameters": lambda: (widgets.parameter_explorer(TINY), {"intermediate_size": 1024}),
        "rank": lambda: (widgets.rank_explorer(picture), {"k": 20}),
        "nf4": lambda: (widgets.nf4_explorer(weights), {"block_size": 256}),
        "memory": lambda: (widgets.memory_calculator({"tiny": TINY}), {"seq_len": 4096}),
    }
    return makers[request.param]()


def cells(explorer) -> list[list[str]]:
    """The rows of the table in the HTML that any front end can show."""
    page = explorer._repr_mimebundle_()["text/html"]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)[1:]]


def shown(explorer) -> tuple:
    """The widgets that show what a setting gives: a line, a picture, a table."""
    _, right = explorer.view.children
    return right.children


def number(text: str) -> float:
    return float(text.replace(",", "").rstrip("%"))


# ── any explorer ─────────────────────────────────────────────────────────────────────────────────


def test_the_bundle_has_the_widget_and_the_table(explorer):
    explorer, _ = explorer
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", VIEW}
    assert bundle[VIEW]["model_id"] == explorer.view.model_id
    for row in explorer.reading().rows:
        for cell in row:
            assert cell in bundle["text/plain"]
            assert cell in bundle["text/html"]


def test_moving_a_slider_changes_table_and_picture(explorer):
    from matplotlib import pyplot

    explorer, other = explorer
    view, figures = explorer.view, pyplot.get_fignums()
    _, picture, table = shown(explorer)
    before = (picture.value, table.value, str(explorer))
    ((name, value),) = other.items()
    explorer.widgets[name].value = value
    assert explorer.values[name] == value
    after = (picture.value, table.value, str(explorer))
    assert not any(new == old for new, old in zip(after, before, strict=True))
    assert explorer.view is view
    assert pyplot.get_fignums() == figures


def test_the_picture_is_a_png_and_not_blank(explorer):
    explorer, _ = explorer
    picture = Image.open(BytesIO(shown(explorer)[1].value))
    assert picture.format == "PNG"
    assert picture.width > 1000
    assert np.asarray(picture.convert("L")).std() > 10


def test_set_moves_the_widget_and_works_without_it(explorer):
    explorer, other = explorer
    ((name, value),) = other.items()
    before = str(explorer)
    assert explorer.set(**other) is explorer
    after = str(explorer)
    assert after != before
    assert explorer.widgets[name].value == value
    explorer.set(**{name: explorer.controls[name].value})
    assert str(explorer) == before
    assert explorer.widgets[name].value == explorer.controls[name].value


def test_a_setting_that_does_not_exist_is_refused_and_changes_nothing(explorer):
    explorer, other = explorer
    ((name, value),) = other.items()
    before = dict(explorer.values)
    with pytest.raises(ValueError, match=f"没有叫 'colour' 的设置.*{name}"):
        explorer.set(**{name: value, "colour": 1})
    with pytest.raises(ValueError, match=f"{name} 不能是 -1.*可选："):
        explorer.set(**{name: -1})
    assert explorer.values == before


def test_many_updates_leave_no_figure_and_no_font_behind(picture):
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    explorer = widgets.rank_explorer(picture)
    assert explorer.view
    gc.collect()
    figures = sum(type(thing) is Figure for thing in gc.get_objects())
    fonts = len(font_manager.fontManager.ttflist)
    for k in range(1, 7):
        explorer.widgets["k"].value = k
    gc.collect()
    assert sum(type(thing) is Figure for thing in gc.get_objects()) <= figures
    assert len(font_manager.fontManager.ttflist) == fonts


def test_a_row_of_the_text_table_is_aligned_where_chinese_is_two_wide():
    rows = [("嵌入", "1"), ("a", "1,000")]
    text = str(widgets.Reading("行", ("部分", "参数量"), rows, draw=lambda figure: None, shares=(0.5, 0.001)))
    _, _, head, rule, first, second = text.split("\n")
    assert head == "部分  参数量"
    assert rule == "─" * 12
    assert first == "嵌入       1  " + "█" * 10
    assert second == "a      1,000  ▏"


def test_html_is_escaped():
    control = widgets.Control("k", (1,), 1)
    reading = widgets.Reading("<b>", ("<i>",), [("<u>",)], draw=lambda figure: None, note="<s>")
    page = widgets.Explorer("<p>", {"k": control}, lambda k: reading)._repr_mimebundle_()["text/html"]
    for tag in "bius":
        assert f"&lt;{tag}&gt;" in page


# ── parameters ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "sizes", [{}, {"num_key_value_heads": 4}, {"tie_word_embeddings": True, "vocab_size": 5000}]
)
def test_the_parameter_table_is_what_params_counts(sizes):
    explorer = widgets.parameter_explorer(TINY).set(**sizes)
    counted = params.count(TINY | sizes)
    assert f"共 {counted.total:,} 个参数" in explorer.reading().headline
    rows = cells(explorer)
    assert [row[0] for row in rows] == [params.COMPONENTS[part] for part in counted.by_component]
    assert [number(row[3]) for row in rows] == list(counted.by_component.values())
    for row, share in zip(rows, counted.shares.values(), strict=True):
        assert row[4] == f"{share:.1%}"
        assert eval(row[2].replace("×", "*").replace(",", "")) == number(row[3])


def test_the_written_formulas_give_the_counts_of_a_model_without_biases():
    explorer = widgets.parameter_explorer("Llama-2-7B").set(num_key_value_heads=8, num_hidden_layers=20)
    letters = {"d": 4096, "L": 20, "h": 32, "h_kv": 8, "d_h": 128, "f": 11008, "V": 32000}
    rows = cells(explorer)
    assert len(rows) == 8
    for row in rows:
        assert eval(row[1].replace("·", "*"), {}, letters) == number(row[3]), row[0]


@pytest.mark.parametrize(
    ("name", "total"),
    [
        (None, 6_738_415_616),
        ("Qwen2.5-7B", 7_615_616_512),
        ("Qwen3-0.6B", 596_049_920),
        ("SmolLM2-135M", 134_515_008),
    ],
)
def test_it_starts_at_the_real_model(name, total):
    assert f"共 {total:,} 个参数" in str(widgets.parameter_explorer(name))


def test_the_shipped_model_keeps_the_head_size_of_its_configuration():
    explorer = widgets.parameter_explorer(models.SHIPPED)
    assert "d_h = 64 维" in str(explorer)
    assert "d_h = 64 维" in str(explorer.set(num_attention_heads=8))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"num_attention_heads": 3, "num_key_value_heads": 1},
            "d = 64 不能平分给 3 个头。d = 64 时 h 可以是 1、2、4、8、16、32、64",
        ),
        (
            {"num_key_value_heads": 3},
            "4 个查询头分不到 3 个 KV 头：每组要一样多。h = 4 时 h_kv 可以是 1、2、4",
        ),
    ],
)
def test_an_impossible_combination_is_a_message_in_place_of_the_picture(sizes, message, capfd):
    explorer = widgets.parameter_explorer(TINY)
    headline, picture, table = shown(explorer)
    for name, value in sizes.items():
        explorer.widgets[name].value = value
    assert message in headline.value
    assert (table.value, picture.layout.visibility) == ("", "hidden")
    bundle = explorer._repr_mimebundle_()
    assert message in bundle["text/plain"]
    assert message in bundle["text/html"]
    explorer.set(num_attention_heads=4, num_key_value_heads=2)
    assert picture.layout.visibility is None
    assert "共 " in headline.value
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen2.5-VL-3B", "ChatGLM3-6B", {"model_type": "gpt2"}])
def test_a_model_that_the_sliders_do_not_describe_is_refused(name):
    with pytest.raises(ValueError, match=r"这几个滑块描述不了.*params\.count"):
        widgets.parameter_explorer(name)


# ── rank ─────────────────────────────────────────────────────────────────────────────────────────


def test_the_rank_table_is_what_lowrank_says(picture):
    matrix = torch.as_tensor(picture).float()
    explorer = widgets.rank_explorer(picture).set(k=5)
    rows = cells(explorer)
    assert [row[0] for row in rows] == ["1", "2", "4", "5 ◀", "8", "16", "32", "48"]
    sigma = torch.linalg.svdvals(matrix)
    for k, row in zip((1, 2, 4, 5, 8, 16, 32, 48), rows, strict=True):
        left, right = lowrank.truncate(matrix, k)
        near = left @ right
        assert number(row[1]) == k * (48 + 64)
        assert row[2] == f"{k * 112 / (48 * 64):.1%}"
        assert number(row[3]) == pytest.approx(100 * float((near - matrix).norm() / matrix.norm()), abs=0.006)
        assert number(row[4]) == pytest.approx(
            100 * float((sigma[:k] ** 2).sum() / (sigma**2).sum()), abs=0.006
        )


@pytest.mark.parametrize("kind", ["image", "matrix"])
def test_a_tall_matrix_of_weights_is_shown_too(kind, weights):
    explorer = widgets.rank_explorer(weights.bfloat16(), kind)
    assert explorer.view
    assert explorer.controls["k"].options[-1] == 50
    assert cells(explorer.set(k=50))[-1][3] == "0.00%"


def test_the_slider_of_a_large_matrix_is_dense_at_low_ranks():
    options = widgets.rank_explorer(torch.eye(600, 500)).controls["k"].options
    assert options[:32] == tuple(range(1, 33))
    assert options[-1] == 500
    assert len(options) < 120


@pytest.mark.parametrize(
    ("matrix", "kind", "message"),
    [
        (np.zeros((4, 4, 3)), "image", r"矩阵 \(2-D\).*\(4, 4, 3\)"),
        (np.zeros((0, 4)), "image", "矩阵是空的"),
        (np.zeros((4, 4)), "image", "全是 0"),
        (np.full((4, 4), np.nan), "matrix", "NaN"),
        (np.eye(4), "photo", "'image'.*'matrix'.*'photo'"),
    ],
)
def test_a_matrix_without_a_rank_is_refused(matrix, kind, message):
    with pytest.raises(ValueError, match=message):
        widgets.rank_explorer(matrix, kind)


# ── NF4 ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_nf4_table_is_what_quant_says(weights):
    explorer = widgets.nf4_explorer(weights)
    rows = cells(explorer)
    assert [row[0] for row in rows] == ["16", "32", "64 ◀", "128", "256", "1024", "整个张量"]
    for row, size in zip(rows, (16, 32, 64, 128, 256, 1024, 4096), strict=True):
        packed = quant.quantize_nf4(weights, size)
        nf4 = quant.relative_error(weights, quant.dequantize_nf4(packed))
        plain = quant.quantize_int(weights, 4, size if size < 4096 else "tensor")
        int4 = quant.relative_error(weights, quant.dequantize_int(plain))
        assert row[1] == f"{packed.bits_per_parameter:.3f}" == f"{plain.bits_per_parameter:.3f}"
        assert row[2:4] == [f"{nf4:.3%}", f"{int4:.3%}"]
        assert row[4] == f"{int4 / nf4:.2f}"


def test_nf4_beats_int4_at_every_block_size_on_normal_weights(weights):
    assert all(number(row[2]) < number(row[3]) for row in cells(widgets.nf4_explorer(weights)))


def test_weights_that_nf4_holds_exactly_have_no_ratio():
    explorer = widgets.nf4_explorer(quant.nf4_levels().repeat(8))
    assert explorer.view
    assert {(row[2], row[4]) for row in cells(explorer)} == {("0.000%", "—")}


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (torch.ones(63), ValueError, "只有 63 个"),
        (torch.full((128,), float("nan")), ValueError, "128 个 NaN"),
        (torch.arange(128), TypeError, "int64"),
        ([0.1] * 128, TypeError, "list"),
    ],
)
def test_weights_that_cannot_be_quantized_are_refused(bad, error, message):
    with pytest.raises(error, match=message):
        widgets.nf4_explorer(bad)


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", vram.METHODS)
def test_the_memory_table_is_what_vram_estimates(method):
    setting = {"seq_len": 2048, "batch_size": 4, "r": 16, "gradient_checkpointing": False}
    explorer = widgets.memory_calculator("SmolLM2-135M").set(method=method, **setting)
    found = vram.estimate("SmolLM2-135M", method, **setting)
    assert [tuple(row[:3]) for row in cells(explorer)] == found.rows()
    assert f"约 {found.gib:.2f} GiB" in explorer.reading().headline


@pytest.mark.parametrize("seq_len", [128, 2048, 16384])
def test_a_card_is_named_where_vram_says_that_it_fits(seq_len):
    explorer = widgets.memory_calculator({"tiny": TINY}).set(seq_len=seq_len, batch_size=64, method="full")
    cards = explorer.reading().headline.rpartition("：")[2].split("、")
    for card, gib in vram.GPUS.items():
        setting = {"seq_len": seq_len, "batch_size": 64, "gradient_checkpointing": True}
        assert (card in cards) == vram.fits(TINY, gib, **setting)["full"].fits


def test_no_card_is_named_for_a_model_that_fits_none():
    explorer = widgets.memory_calculator({"wide": TINY | {"hidden_size": 2**16}}).set(method="full")
    assert explorer.reading().headline.endswith("放得下的卡：没有")
    assert explorer.view


def test_a_rank_above_a_layer_is_a_message():
    explorer = widgets.memory_calculator({"tiny": TINY})
    headline, picture, _ = shown(explorer)
    explorer.widgets["r"].value = 256
    assert "秩 (rank) r=256 太大" in headline.value
    assert picture.layout.visibility == "hidden"


def test_the_models_are_those_asked_for_or_all_that_ship():
    assert widgets.memory_calculator(["SmolLM2-135M", "Qwen3-0.6B"]).controls["model"].options == (
        "SmolLM2-135M",
        "Qwen3-0.6B",
    )
    assert sorted(widgets.memory_calculator().controls["model"].options) == params.known()
    with pytest.raises(ValueError, match="没有给出模型"):
        widgets.memory_calculator([])
    with pytest.raises(ValueError, match="不认识 'Qwen9'"):
        widgets.memory_calculator(["Qwen9"])


# ── where there is no widget ─────────────────────────────────────────────────────────────────────

SHOW = """
import torch
from lab_utils import widgets
explorer = widgets.rank_explorer(torch.arange(24.).reshape(4, 6).sin())
"""


def test_without_ipywidgets_there_is_the_table():
    program = (
        "import sys\nsys.modules['ipywidgets'] = None"
        + SHOW
        + "print(sorted(explorer._repr_mimebundle_()))\nprint(explorer.set(k=2))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    kinds, title, *table = done.stdout.splitlines()
    assert kinds == "['text/html', 'text/plain']"
    assert title.startswith("低秩近似")
    assert [line.startswith("2 ◀") for line in table].count(True) == 1


def test_a_run_without_anybody_is_the_table(explorer, monkeypatch):
    explorer, _ = explorer
    monkeypatch.setenv("LAB_HEADLESS", "1")
    assert set(explorer._repr_mimebundle_()) == {"text/plain", "text/html"}
    assert "view" not in vars(explorer)


@pytest.fixture(scope="module")
def kernel():
    from jupyter_client.manager import start_new_kernel

    env = {name: value for name, value in os.environ.items() if name != "LAB_HEADLESS"}
    quiet = ["--log-level=ERROR", "--HistoryManager.hist_file=:memory:"]
    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=quiet, env=env)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def run(client, code: str, allow_stdin: bool) -> tuple[dict, list[str]]:
    """What a cell shows, and the kinds of the other messages it sends to the front end."""
    sent = client.execute(code, allow_stdin=allow_stdin)
    data, others = {}, []
    while True:
        try:
            message = client.get_iopub_msg(timeout=60)
        except queue.Empty:
            pytest.fail("the kernel said nothing for a minute")
        if message["parent_header"].get("msg_id") != sent:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return data, others
        if kind == "execute_result":
            data = content["data"]
        elif kind not in ("status", "execute_input"):
            others.append(kind)


@pytest.mark.slow
def test_a_kernel_shows_the_widget_only_to_somebody_who_can_answer(kernel):
    data, others = run(kernel, SHOW + "explorer", allow_stdin=False)
    assert set(data) == {"text/plain", "text/html"}
    assert others == []
    data, others = run(kernel, "explorer", allow_stdin=True)
    assert set(data) == {"text/plain", "text/html", VIEW}
    assert set(others) == {"comm_open", "comm_msg"}


@pytest.mark.slow
def test_a_notebook_run_by_a_program_stores_the_table_and_converts_to_it():
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHOW + "explorer")])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert set(output.data) == {"text/plain", "text/html"}
    assert "widgets" not in notebook.metadata
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert "低秩近似" in page
    assert "widget-view" not in page


def test_a_notebook_saved_in_jupyterlab_converts_to_the_table(explorer):
    import nbformat
    from nbconvert import HTMLExporter

    explorer, _ = explorer
    output = nbformat.v4.new_output("execute_result", explorer._repr_mimebundle_(), execution_count=1)
    cell = nbformat.v4.new_code_cell("explorer", outputs=[output], execution_count=1)
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    assert explorer.reading().rows[0][0] in page
    assert VIEW not in page
