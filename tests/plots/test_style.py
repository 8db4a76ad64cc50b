"""The look of every figure."""

import subprocess
import sys

from lab_utils import plots


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
