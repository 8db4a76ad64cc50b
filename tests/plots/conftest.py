import pytest
from matplotlib.figure import Figure

from lab_utils import plots


@pytest.fixture
def ax():
    plots.use_course_style()
    return Figure(layout="none").subplots()
