"""Matrices as pictures, ranks, levels and block sizes."""

import numpy as np
import pytest

from lab_utils import plots
from tests.plots.drawn import words


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
