import numpy as np
import pandas as pd
import pytest
import torch

from lab_utils import course, lowrank, models

RATINGS = course.root() / "datasets" / "movie_ratings" / "ratings.csv"


def gaussian(m, n, seed=0, dtype=torch.float64):
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def ratings():
    return lowrank.read_ratings(RATINGS)


# ── truncated SVD ────────────────────────────────────────────────────────────────────────────────


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


# ── ratings ──────────────────────────────────────────────────────────────────────────────────────


def test_both_formats_of_movielens_give_the_same_table(ratings, tmp_path):
    plain = tmp_path / "u.data"
    plain.write_text(
        "".join(f"{r.user}\t{r.item}\t{r.rating}\t{r.timestamp}\n" for r in ratings.itertuples())
    )
    pd.testing.assert_frame_equal(lowrank.read_ratings(plain), ratings)
    assert list(ratings.columns) == ["user", "item", "rating", "timestamp"]
    assert [kind.kind for kind in ratings.dtypes] == ["i", "i", "f", "i"]
    assert len(ratings) == 5738


def test_a_file_written_by_windows_is_read(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfuserId,movieId,rating,timestamp\r\n1,2,3.5,4\r\n")
    assert lowrank.read_ratings(path).values.tolist() == [[1, 2, 3.5, 4]]


HEADER = "userId,movieId,rating,timestamp\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "是空的"),
        ("\n \n", "是空的"),
        (HEADER, "只有表头"),
        ("user,item,rating\n1,2,3\n", "第 1 行应是表头 userId,movieId,rating,timestamp"),
        ("1::2::3::4\n", "第 1 行应是表头"),
        (HEADER + "1,2,3.0,4\n1,3,3.0\n", "第 3 行应有 4 个字段.*却有 3 个"),
        (HEADER + "1,2,3.0,4\n\n1,3,3.0,4\n", "第 3 行应有 4 个字段"),
        (HEADER + "1,2,好,4\n", "第 2 行的 rating 应是数，却是 '好'"),
        (HEADER + "甲,2,3,4\n", "第 2 行的 user 应是整数"),
        (HEADER + "1,2.5,3,4\n", "第 2 行的 item 应是整数"),
        (HEADER + "1,2,nan,4\n", "第 2 行的 rating 不是有限的数"),
        (HEADER + "1,2,3,4\n1,3,3,4\n1,2,5,6\n", "第 4 行与第 2 行重复.*用户 1 给 2"),
        ("1\t2\t3\t4\n1\t2\n", "第 2 行应有 4 个字段"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        lowrank.read_ratings(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"评分文件.*none\.csv"):
        lowrank.read_ratings(tmp_path / "none.csv")


def test_the_split_takes_a_share_of_each_user_and_loses_nothing(ratings):
    train, held_out = lowrank.split_ratings(ratings, 0.2, seed=3)
    counts = ratings.groupby("user").size()
    assert (held_out.groupby("user").size() == (0.2 * counts).astype(int)).all()
    together = pd.concat([train, held_out]).sort_values(["user", "timestamp"], ignore_index=True)
    pd.testing.assert_frame_equal(together, ratings)
    pd.testing.assert_frame_equal(lowrank.split_ratings(ratings, 0.2, seed=3)[1], held_out)
    assert not lowrank.split_ratings(ratings, 0.2, seed=4)[1].equals(held_out)
    with pytest.raises(ValueError, match="份额"):
        lowrank.split_ratings(ratings, 1.0)


# ── alternating least squares ────────────────────────────────────────────────────────────────────


def planted(users=40, items=30, rank=2, share=0.6, seed=0):
    """A table of exact rank `rank` with mean zero about 3, and a random `share` of its entries as ratings."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(users, rank)) @ rng.normal(size=(rank, items))
    seen = np.argwhere(rng.random(table.shape) < share)
    values = 3 + table[tuple(seen.T)]
    frame = pd.DataFrame({"user": seen[:, 0] + 10, "item": seen[:, 1] * 7, "rating": values})
    return 3 + table, frame.sample(frac=1, random_state=seed)


def test_a_planted_table_is_recovered_from_a_part():
    table, frame = planted()
    found = lowrank.als(frame, k=3, reg=1e-3, rounds=60)  # 2 tastes, and the mean that isn't exactly 3
    assert found.rmse[-1] < 0.01
    assert np.sqrt(np.mean((found.table() - table) ** 2)) < 0.02


def test_the_objective_never_rises_and_settles(ratings):
    found = lowrank.als(ratings, k=5, rounds=30)
    assert len(found.objective) == 60 and len(found.rmse) == 30
    steps = np.diff(found.objective)
    assert (steps <= 1e-9 * found.objective[0]).all()
    assert abs(steps[-1]) < 1e-4 * abs(steps[0])


def test_the_objective_and_the_error_are_those_of_the_factors(ratings):
    found = lowrank.als(ratings, k=4, reg=2.0, rounds=3)
    predicted = found.predict(ratings["user"], ratings["item"])
    squares = np.sum((ratings["rating"] - predicted) ** 2)
    penalty = np.sum(found.user_factors**2) + np.sum(found.item_factors**2)
    assert found.objective[-1] == pytest.approx(squares + 2.0 * penalty)
    assert found.rmse[-1] == pytest.approx(lowrank.rating_rmse(predicted, ratings))


def test_at_the_optimum_every_user_and_item_is_its_ridge_solution(ratings):
    found = lowrank.als(ratings, k=3, reg=2.0, rounds=300)
    places = {item: i for i, item in enumerate(found.items)}
    for i in (0, 57, 199):
        mine = ratings[ratings["user"] == found.users[i]]
        seen = found.item_factors[[places[item] for item in mine["item"]]]
        target = mine["rating"].to_numpy() - found.mean
        # the same by augmentation: rows √reg·I with target 0
        rows = np.vstack([seen, np.sqrt(2.0) * np.eye(3)])
        by_lstsq = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(3)]), rcond=None)[0]
        np.testing.assert_allclose(lowrank.ridge(seen, target, 2.0), by_lstsq, atol=1e-10)
        np.testing.assert_allclose(found.user_factors[i], by_lstsq, atol=1e-5)


def test_five_directions_predict_the_held_out_ratings_best(ratings):
    train, held_out = lowrank.split_ratings(ratings, 0.2, seed=0)
    errors = {}
    for k in (1, 5, 16):
        found = lowrank.als(train, k)
        errors[k] = lowrank.rating_rmse(found.predict(held_out["user"], held_out["item"]), held_out)
    by_mean, by_item = lowrank.baselines(train, held_out).values()
    assert by_mean == pytest.approx(held_out["rating"].sub(train["rating"].mean()).pow(2).mean() ** 0.5)
    assert errors[5] < 0.54 < 0.6 < errors[16] < by_item < by_mean
    assert errors[5] < 0.75 * errors[1]


def test_the_seed_decides(ratings):
    some = ratings.head(600)
    first, again, other = (lowrank.als(some, 2, rounds=2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.user_factors, again.user_factors)
    assert not np.array_equal(first.user_factors, other.user_factors)


def test_strangers_get_the_mean():
    _, frame = planted()
    found = lowrank.als(frame, k=2)
    known, film = frame["user"].iloc[0], frame["item"].iloc[0]
    predicted = found.predict([known, 9, 10_000, known, known], [film, film, film, -1, 10_000])
    assert predicted[0] != found.mean
    assert predicted[1:].tolist() == [found.mean] * 4
    row, column = list(found.users).index(known), list(found.items).index(film)
    assert predicted[0] == pytest.approx(found.table()[row, column])


def test_an_item_that_nobody_rated_in_training_gets_the_mean_as_baseline():
    train = pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [2.0, 4.0]})
    held_out = pd.DataFrame({"user": [1, 1], "item": [1, 2], "rating": [3.0, 5.0]})
    assert list(lowrank.baselines(train, held_out).values()) == pytest.approx([2**0.5, 2**0.5])


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda f: f.drop(columns="item"), {}, "缺少列：item"),
        (lambda f: f.head(0), {}, "是空的"),
        (lambda f: f.assign(rating=float("nan")), {}, "第 1 行的 rating 不是有限的数"),
        (lambda f: pd.concat([f, f.tail(1)]), {}, "评了两次分"),
        (lambda f: f, {"k": 31}, "1 到 30 之间的整数，却是 31"),
        (lambda f: f, {"k": 0}, "1 到 30"),
        (lambda f: f, {"reg": 0}, "reg"),
        (lambda f: f, {"reg": float("nan")}, "reg"),
        (lambda f: f, {"rounds": 0}, "rounds"),
    ],
)
def test_bad_ratings_and_settings_are_refused(change, arguments, message):
    _, frame = planted()
    with pytest.raises(ValueError, match=message):
        lowrank.als(change(frame), **{"k": 2, **arguments})


# ── what fine-tuning changes ─────────────────────────────────────────────────────────────────────


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


def test_the_head_tied_to_the_embedding_is_left_out():
    model, _ = models.load(models.SHIPPED)
    weights = lowrank.linear_weights(model)
    assert len(weights) == 6 * 7  # six layers: q, k, v, o and gate, up, down
    assert "model.layers.0.self_attn.q_proj.weight" in weights and "lm_head.weight" not in weights


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
