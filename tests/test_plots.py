"""What the figures draw: the sizes, colours and words that a reader takes from them."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from lab_utils import plots
from lab_utils.evaluation.intervals import Interval


@pytest.fixture
def ax():
    plots.use_course_style()
    return Figure(layout="none").subplots()


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_setting_the_style_again_adds_no_font():
    from matplotlib import font_manager

    plots.use_course_style()
    before = len(font_manager.fontManager.ttflist)
    plots.use_course_style()
    assert len(font_manager.fontManager.ttflist) == before


def test_stacked_shares_add_up_and_keep_a_colour_for_a_part(ax):
    bars = {"甲": {"a": 3, "b": 1, "c": 0.001}, "乙": {"b": 2}}
    parts = {
        "a": ("第一", plots.DARK),
        "b": ("第二", plots.SOFT),
        "c": ("第三", plots.BRIGHT),
        "d": ("无", "#000000"),
    }
    plots.stacked_shares(ax, bars, parts, "参数量")
    ends = [[patch.get_x() + patch.get_width() for patch in group] for group in ax.containers]
    assert ends == [[3, 0], [4, 2], [pytest.approx(4.001), 2]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["第一", "第二", "第三"]
    assert words(ax) == ["75%", "", "25%", "100%", "", ""]
    assert ax.texts[0].get_color() == "white"
    assert ax.texts[3].get_color() == "black"
    assert [label.get_text() for label in ax.get_yticklabels()] == ["甲", "乙"]
    assert ax.yaxis_inverted()


@pytest.mark.parametrize(
    ("value", "text"), [(7e9, "7 B"), (1.5e8, "150 M"), (2000, "2 K"), (72, "72"), (0, "0")]
)
def test_counts_on_an_axis_are_short(ax, value, text):
    plots.stacked_shares(ax, {"甲": {"a": 7e9}}, {"a": ("第一", plots.DARK)}, "参数量")
    assert ax.xaxis.get_major_formatter()(value, 0) == text


def test_two_pictures_share_the_range_of_the_original(ax):
    original = np.array([[0.0, 1.0], [2.0, 3.0]])
    plots.matrix_image(ax, original * 2, "秩 1", "image", like=original)
    (image,) = ax.get_images()
    assert image.get_clim() == (0, 3)
    assert image.get_array().max() == 6


def test_a_matrix_is_white_at_zero(ax):
    plots.matrix_image(ax, np.array([[-1.0, 4.0]]), "矩阵", "matrix")
    (image,) = ax.get_images()
    low, high = image.get_clim()
    assert -low == high == pytest.approx(4, rel=0.01)
    assert image.cmap(0.5)[:3] == pytest.approx((1, 1, 1), abs=0.01)


def test_the_chosen_rank_lies_on_the_curve_and_what_saves_nothing_is_shaded(ax):
    errors = [0.5, 0.25, 0.1, 0.0]
    plots.rank_errors(ax, errors, 2, break_even=2.5)
    curve, point = ax.lines
    assert list(curve.get_ydata()) == errors
    assert (list(point.get_xdata()), list(point.get_ydata())) == ([2], [0.25])
    (shaded,) = ax.patches
    assert (shaded.get_x(), shaded.get_x() + shaded.get_width()) == (2.5, 4)


def test_the_histogram_counts_every_weight_and_the_levels_lie_below(ax):
    values = np.linspace(-1, 1, 1001)
    levels = {"NF4": [-1.0, 0.0, 1.0], "int4": [-1.0, 1.0]}
    plots.level_histogram(ax, values, levels)
    (steps,) = ax.patches
    assert steps.get_data().values.sum() == 1001
    assert words(ax) == ["NF4", "int4"]
    for strokes, points in zip(ax.collections, levels.values(), strict=True):
        assert [segment[0][0] for segment in strokes.get_segments()] == points
        assert all(y < 0 for segment in strokes.get_segments() for _, y in segment)


def test_the_errors_of_both_codes_are_drawn_and_the_chosen_size_is_ringed(ax):
    errors = {"NF4": [0.08, 0.09], "int4": [0.09, 0.11]}
    plots.error_by_block(ax, ["16", "全部"], errors, 1)
    assert [list(line.get_ydata()) for line in ax.lines[::2]] == list(errors.values())
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines[1::2]] == [(1, 0.09), (1, 0.11)]
    assert ax.get_ylim()[1] > 0.11


def test_memory_goes_down_in_steps_to_the_sum(ax):
    plots.memory_steps(ax, {"权重": 10.0, "激活值": 8.0}, {"T4": 16, "RTX 4090": 24, "A100 80G": 80}, 1.0)
    spans = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert spans == [(0, 10), (10, 8), (0, 18)]
    assert words(ax)[:3] == ["10.00", "8.00", "18.00"]
    assert words(ax)[3:] == ["T4", "RTX 4090"]
    assert [line.get_linestyle() for line in ax.lines] == [":", "-"]


@pytest.mark.parametrize(("reserve", "line"), [(1.0, "-"), (1.01, ":")])
def test_a_card_fits_with_what_is_kept_free(ax, reserve, line):
    plots.memory_steps(ax, {"权重": 15.0}, {"T4": 16}, reserve)
    assert [card.get_linestyle() for card in ax.lines] == [line]


def test_the_smallest_card_is_shown_however_little_is_needed(ax):
    plots.memory_steps(ax, {"权重": 0.1}, {"T4": 16, "RTX 4090": 24}, 1.0)
    assert words(ax)[2:] == ["T4"]
    assert ax.get_xlim()[1] > 16


def test_cards_far_below_the_sum_keep_a_line_and_the_largest_its_name(ax):
    plots.memory_steps(ax, {"权重": 1300.0}, {"T4": 16, "RTX 4090": 24, "A100 80G": 80}, 1.0)
    assert len(ax.lines) == 3
    assert words(ax)[2:] == ["A100 80G"]


def test_importing_plots_loads_no_matplotlib():
    program = "import sys; from lab_utils import plots, widgets; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_layers_of_a_reward_add_up_behind_the_bar(ax):
    plots.reward_layers(ax, ["甲", "乙"], {"a": [2.0, 0.0], "b": [0.5, 0.125]})
    assert words(ax) == ["2.5", "0.125"]
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[1]]
    assert ends == [2.5, 0.125]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_a_group_without_difference_has_no_side(ax):
    bottom = Figure(layout="none").subplots()
    plots.group_bars(ax, bottom, {"甲": [1, 0], "乙": [1, 1]}, {"甲": [0.7, -0.7], "乙": [0.0, 0.0]})
    colours = [bar.get_facecolor() for container in ax.containers for bar in container]
    assert len(set(colours)) == 3 and colours[2] == colours[3]
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.5, 0.5], [1.0, 1.0]]
    assert [bar.get_height() for container in bottom.containers for bar in container] == [0.7, -0.7, 0, 0]


def test_what_rises_and_what_falls_share_their_steps(ax):
    import pandas as pd

    lower = Figure(layout="none").subplots()
    log = pd.DataFrame({"step": [1, 2], "count": [3.0, 9.0], "form": [1.0, 0.2]})
    plots.rise_and_fall(ax, lower, log, "count", {"form": "形式"}, ("字数", "比例"))
    assert ax.lines[0].get_ydata().tolist() == [3.0, 9.0]
    assert lower.lines[0].get_ydata().tolist() == [1.0, 0.2] and lower.lines[0].get_label() == "形式"


def test_a_batching_timeline_shows_work_and_held_slots(ax):
    from lab_utils.serving.scheduling import Job, static_batching

    plots.batching_timeline(ax, static_batching([Job(0, 6), Job(0, 2), Job(1, 3)], 2), steps=20)
    bars = [
        (round(bar.get_y() + 0.4, 9), bar.get_x(), bar.get_width(), bool(bar.get_hatch()))
        for bar in ax.patches
    ]
    assert bars == [(0, 0, 6, False), (1, 0, 2, False), (0, 6, 3, False), (1, 2, 4, True)]
    assert words(ax) == ["0", "1", "2"]
    assert ax.get_legend_handles_labels()[1] == ["写完了，还占着槽位"]
    assert (ax.get_xlim(), ax.yaxis_inverted()) == ((0, 20), True)
    assert ax.lines[0].get_xdata()[0] == 9


def test_a_memory_map_shows_who_holds_what(ax):
    from lab_utils.serving.scheduling import contiguous_memory, paged_memory

    plots.memory_map(ax, contiguous_memory([3, 1], places=20, max_length=8), per_row=4, unit=8)
    assert ax.images[0].get_array().tolist() == [[2, 2, 2, 1], [1] * 4, [3, 1, 1, 1], [1] * 4, [0] * 4]
    assert words(ax) == ["0", "1"]
    assert ax.get_legend_handles_labels()[1] == ["有词元", "预留了，没有用", "空闲"]
    other = Figure(layout="none").subplots()
    plots.memory_map(other, paged_memory([3, 1], places=8, block_size=2), per_row=4, unit=2)
    assert other.images[0].get_array().tolist() == [[2, 2, 3, 1], [2, 1, 0, 0]]
    assert words(other) == ["0", "1", "0"]


def load_test(name: str, concurrency: int, seconds: float):
    from lab_utils.serving.load import LoadTest, Trace

    good = Trace(0.0, (seconds / 4, seconds), seconds, 30, "诗")
    return LoadTest(name, concurrency, (good, Trace(0.0, (), seconds / 2, 0, "", "HTTP 500")))


def test_load_bars_put_each_contestant_beside_the_others(ax):
    tests = [load_test("甲", 8, 2.0), load_test("甲", 1, 1.0), load_test("乙", 8, 4.0)]
    plots.load_bars(ax, tests, "tokens_per_second", "词元 / 秒")
    assert [[bar.get_height() for bar in group] for group in ax.containers] == [[30, 15], [pytest.approx(np.nan, nan_ok=True), 7.5]]  # fmt: skip
    assert words(ax) == ["30", "15", "", "7.5"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "8"]
    assert ax.get_legend_handles_labels()[1] == ["甲", "乙"]


def test_load_bars_scale_a_figure(ax):
    plots.load_bars(ax, [load_test("甲", 1, 2.0)], "ttft_p95", "毫秒", scale=1000)
    assert words(ax) == ["500"]


def test_a_request_timeline_shows_waiting_receiving_and_failing(ax):
    plots.request_timeline(ax, load_test("甲", 2, 2.0), seconds=5)
    bars = [(round(bar.get_y() + 0.4, 9), bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [(0, 0, 0.5), (0, 0.5, 1.5), (1, 0, 1), (1, 1, 0)]
    assert ax.get_legend_handles_labels()[1] == ["等第一个字", "收到文字"]
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 1]]]


def test_every_character_of_a_figure_is_in_the_shipped_font(tmp_path, recwarn):
    score = Interval(0.8, 0.7, 0.9, 200)
    ax = plots.rates({"五言绝句": {"底座": score, "微调后": score}}, "通过率 α/r ≤ −1", "比例 (rate)")
    ax.figure.savefig(tmp_path / "figure.png")
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message) or "findfont" in str(w.message)]
    assert [bar.get_height() for bar in ax.patches] == [0.8, 0.8]


def test_token_mask_marks_only_supervised_tokens_and_escapes():
    page = plots.token_mask(["<b>", "好", "\n"], [False, True, False])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count(f"background:{plots.BRIGHT}") == 1 and "⏎" in page
