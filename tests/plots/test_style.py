"""The look of every figure."""

import subprocess
import sys

from lab_utils import plots
from lab_utils.evaluation.intervals import Interval


def test_setting_the_style_again_adds_no_font():
    from matplotlib import font_manager

    plots.use_course_style()
    before = len(font_manager.fontManager.ttflist)
    plots.use_course_style()
    assert len(font_manager.fontManager.ttflist) == before


def test_importing_plots_loads_no_matplotlib():
    program = "import sys; from lab_utils import plots, widgets; print('matplotlib' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_character_of_a_figure_is_in_the_shipped_font(tmp_path, recwarn):
    score = Interval(0.8, 0.7, 0.9, 200)
    ax = plots.rates({"五言绝句": {"底座": score, "微调后": score}}, "通过率 α/r ≤ −1", "比例 (rate)")
    ax.figure.savefig(tmp_path / "figure.png")
    assert not [str(w.message) for w in recwarn if "Glyph" in str(w.message) or "findfont" in str(w.message)]
    assert [bar.get_height() for bar in ax.patches] == [0.8, 0.8]
