"""The SVD's best approximation, its error and energy, and the rank of what fine-tuning changes."""

import numpy as np
import pytest
import torch

from lab_utils import lowrank


def gaussian(m, n, seed=0, dtype=torch.float64):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 5), (1, 4)])
def test_the_error_is_what_eckart_young_mirsky_says(shape):
    matrix = gaussian(*shape)
    sigma = lowrank.spectrum(matrix)
    for k in range(1, min(shape) + 1):
        left, right = lowrank.truncate(matrix, k)
        assert left.shape == (shape[0], k) and right.shape == (k, shape[1])
        rest = matrix - left @ right
        frobenius = torch.linalg.matrix_norm(rest).item()
        spectral = torch.linalg.matrix_norm(rest, 2).item()
        assert lowrank.truncation_error(sigma, k) == pytest.approx(frobenius, abs=1e-12)
        assert lowrank.truncation_error(sigma, k, "spectral") == pytest.approx(spectral, abs=1e-12)
    assert lowrank.truncation_error(sigma, 0) == pytest.approx(matrix.norm().item())


def test_no_other_matrix_of_that_rank_is_nearer():
    matrix = gaussian(9, 6)
    best = lowrank.truncation_error(lowrank.spectrum(matrix), 2)
    for seed in range(50):
        left = gaussian(9, 2, seed)
        nearest = left @ torch.linalg.lstsq(left, matrix).solution  # the best for these columns
        assert (matrix - nearest).norm().item() >= best
    left, right = lowrank.truncate(matrix, 2)
    for seed in range(20):
        moved = (left + 0.01 * gaussian(9, 2, seed)) @ (right + 0.01 * gaussian(2, 6, seed))
        assert (matrix - moved).norm().item() > best


def test_a_matrix_of_rank_two_needs_two():
    matrix = gaussian(8, 2) @ gaussian(2, 10, seed=1)
    left, right = lowrank.truncate(matrix, 2)
    torch.testing.assert_close(left @ right, matrix)
    assert lowrank.rank_for_energy(lowrank.spectrum(matrix), 1 - 1e-12) == 2


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (np.arange(6.0).reshape(2, 3), torch.float64),
        (np.arange(6, dtype=np.uint8).reshape(2, 3), torch.float32),
        (torch.arange(6.0).reshape(2, 3).bfloat16(), torch.float32),
        (torch.nn.Parameter(torch.arange(6.0).reshape(2, 3)), torch.float32),
        ([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], torch.float32),
    ],
)
def test_arrays_images_and_parameters_are_accepted(given, dtype):
    left, right = lowrank.truncate(given, 2)
    assert left.dtype == dtype and not left.requires_grad
    torch.testing.assert_close(left @ right, torch.arange(6, dtype=dtype).reshape(2, 3))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3), r"需要一个矩阵.*\(3,\)"),
        (torch.zeros(2, 3, 3), "逐个通道"),
        (torch.zeros(0, 3), "空的"),
        (torch.tensor([[1.0, 2.0], [float("nan"), 1.0]]), r"\[1, 0\].*NaN"),
        (torch.tensor([[1.0, float("inf")]]), r"\[0, 1\].*NaN"),
    ],
)
def test_what_is_no_matrix_is_refused(matrix, message):
    with pytest.raises(ValueError, match=message):
        lowrank.truncate(matrix, 1)
    with pytest.raises(ValueError, match=message):
        lowrank.spectrum(matrix)


@pytest.mark.parametrize("k", [0, -1, 4, 1.5])
def test_a_rank_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match="1 到 3 之间的整数"):
        lowrank.truncate(torch.ones(3, 4), k)


def test_energy_by_hand():
    sigma = [4.0, 2.0, 2.0, 1.0]  # squares 16, 4, 4, 1: together 25
    assert lowrank.energy(sigma).tolist() == pytest.approx([0.64, 0.80, 0.96, 1.0])
    ranks = [lowrank.rank_for_energy(sigma, share) for share in (0.5, 0.64, 0.65, 0.9, 0.96, 1.0)]
    assert ranks == [1, 1, 2, 3, 3, 4]
    assert lowrank.rank_for_energy([3.0, 0.0, 0.0], 1.0) == 1


def test_energy_agrees_with_the_error():
    sigma = lowrank.spectrum(gaussian(20, 30))
    error = lowrank.truncation_error(sigma, 5) / lowrank.truncation_error(sigma, 0)
    assert 1 - lowrank.energy(sigma)[4].item() == pytest.approx(error**2)


@pytest.mark.parametrize("sigma", [[], [1.0, 2.0], [-1.0], [float("nan")], [[1.0]]])
def test_what_are_no_singular_values_is_refused(sigma):
    for function in (lowrank.energy, lambda s: lowrank.truncation_error(s, 0)):
        with pytest.raises(ValueError, match="singular values"):
            function(sigma)


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="零矩阵"):
        lowrank.energy([0.0, 0.0])
    for share in (0, -0.1, 1.1, 90, float("nan")):
        with pytest.raises(ValueError, match="份额"):
            lowrank.rank_for_energy([1.0], share)
    with pytest.raises(ValueError, match="不认识范数 .*'nuclear'"):
        lowrank.truncation_error([1.0], 1, "nuclear")
    with pytest.raises(ValueError, match="0 到 2 之间"):
        lowrank.truncation_error([2.0, 1.0], 3)


def small(seed=0, width=8):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Embedding(5, width), torch.nn.Linear(width, 12), torch.nn.Linear(12, 6, bias=False)
    )


def test_the_change_is_the_difference_of_the_linear_weights():
    before, after = small(0), small(1)
    changes = lowrank.weight_change(before, after)
    assert list(changes) == ["1.weight", "2.weight"]
    torch.testing.assert_close(changes["1.weight"], (after[1].weight - before[1].weight).detach())
    lowrank.apply_change(before, changes)
    torch.testing.assert_close(before[2].weight, after[2].weight)


def test_a_change_applied_at_rank_k_is_the_best_of_that_rank():
    before, after = small(0), small(1)
    changes, old = lowrank.weight_change(before, after), before[1].weight.detach().clone()
    lowrank.apply_change(before, changes, k=3)
    added = before[1].weight.detach() - old
    sigma = lowrank.spectrum(changes["1.weight"])
    assert torch.linalg.matrix_rank(added, atol=1e-4) == 3
    assert (changes["1.weight"] - added).norm().item() == pytest.approx(
        lowrank.truncation_error(sigma, 3), rel=1e-4
    )
    torch.testing.assert_close(before[1].bias, small(0)[1].bias)


def test_models_that_differ_are_refused_before_anything_is_changed():
    with pytest.raises(ValueError, match=r"1\.weight 的形状不同.*\(12, 8\).*\(12, 9\)"):
        lowrank.weight_change(small(), small(width=9))
    with pytest.raises(ValueError, match="different layers"):
        lowrank.weight_change(small(), small()[:2])
    model = small()
    changes = {"1.weight": torch.ones(12, 8)}
    for wrong, message in [
        ({"3.weight": torch.ones(2, 2)}, "unknown layers"),
        ({"2.weight": torch.ones(6, 11)}, "形状不同"),
    ]:
        with pytest.raises(ValueError, match=message):
            lowrank.apply_change(model, changes | wrong)
    with pytest.raises(ValueError, match="1 到 6"):
        lowrank.apply_change(model, changes | {"2.weight": torch.ones(6, 12)}, k=7)
    torch.testing.assert_close(model[1].weight, small()[1].weight)


def test_the_table_sets_a_change_beside_a_random_matrix():
    low = gaussian(40, 3, dtype=torch.float32) @ gaussian(3, 30, seed=1, dtype=torch.float32)
    table = lowrank.change_table({"low": low, "noise": gaussian(40, 30, 2, torch.float32)}, share=0.99)
    assert table["name"].tolist() == ["low", "noise"] and table["shape"].tolist() == [(40, 30)] * 2
    assert table["full_rank"].tolist() == [30, 30]
    assert table["rank"][0] <= 3 and abs(table["rank"][1] - table["random_rank"][1]) <= 2
    assert table["norm"][0] == pytest.approx(low.norm().item(), rel=1e-5)
