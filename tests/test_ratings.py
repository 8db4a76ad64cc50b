"""Ratings read, split, and factorized by alternating least squares."""

import numpy as np
import pandas as pd
import pytest

from lab_utils import course
from lab_utils import ratings as movies

RATINGS = course.root() / "datasets" / "movie_ratings" / "ratings.csv"


@pytest.fixture(scope="module")
def ratings():
    return movies.read_ratings(RATINGS)


def test_both_formats_of_movielens_give_the_same_table(ratings, tmp_path):
    plain = tmp_path / "u.data"
    plain.write_text(
        "".join(f"{r.user}\t{r.item}\t{r.rating}\t{r.timestamp}\n" for r in ratings.itertuples())
    )
    pd.testing.assert_frame_equal(movies.read_ratings(plain), ratings)
    assert list(ratings.columns) == ["user", "item", "rating", "timestamp"]
    assert [kind.kind for kind in ratings.dtypes] == ["i", "i", "f", "i"]
    assert len(ratings) == 5738


def test_a_file_written_by_windows_is_read(tmp_path):
    path = tmp_path / "ratings.csv"
    path.write_bytes(b"\xef\xbb\xbfuserId,movieId,rating,timestamp\r\n1,2,3.5,4\r\n")
    assert movies.read_ratings(path).values.tolist() == [[1, 2, 3.5, 4]]


HEADER = "userId,movieId,rating,timestamp\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "是空的"),
        ("\n \n", "是空的"),
        (HEADER, "只有表头"),
        ("user,item,rating\n1,2,3\n", "第 1 行：应是表头 userId,movieId,rating,timestamp"),
        ("1::2::3::4\n", "第 1 行：应是表头"),
        (HEADER + "1,2,3.0,4\n1,3,3.0\n", "第 3 行：应有 4 个字段.*却有 3 个"),
        (HEADER + "1,2,3.0,4\n\n1,3,3.0,4\n", "第 3 行：应有 4 个字段"),
        (HEADER + "1,2,好,4\n", "第 2 行：rating 应是数，却是 '好'"),
        (HEADER + "甲,2,3,4\n", "第 2 行：user 应是整数"),
        (HEADER + "1,2.5,3,4\n", "第 2 行：item 应是整数"),
        (HEADER + "1,2,nan,4\n", "第 2 行：rating 不是有限的数"),
        (HEADER + "1,2,3,4\n1,3,3,4\n1,2,5,6\n", "第 4 行：与第 2 行重复.*用户 1 给 2"),
        ("1\t2\t3\t4\n1\t2\n", "第 2 行：应有 4 个字段"),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, message):
    path = tmp_path / "ratings.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        movies.read_ratings(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"评分文件.*none\.csv"):
        movies.read_ratings(tmp_path / "none.csv")


def test_the_split_takes_a_share_of_each_user_and_loses_nothing(ratings):
    train, held_out = movies.split_ratings(ratings, 0.2, seed=3)
    counts = ratings.groupby("user").size()
    assert (held_out.groupby("user").size() == (0.2 * counts).astype(int)).all()
    together = pd.concat([train, held_out]).sort_values(["user", "timestamp"], ignore_index=True)
    pd.testing.assert_frame_equal(together, ratings)
    pd.testing.assert_frame_equal(movies.split_ratings(ratings, 0.2, seed=3)[1], held_out)
    assert not movies.split_ratings(ratings, 0.2, seed=4)[1].equals(held_out)
    with pytest.raises(ValueError, match="份额"):
        movies.split_ratings(ratings, 1.0)


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
    found = movies.als(frame, k=3, reg=1e-3, rounds=60)  # 2 tastes, and the mean that isn't exactly 3
    assert found.rmse[-1] < 0.01
    assert np.sqrt(np.mean((found.table() - table) ** 2)) < 0.02


def test_the_objective_never_rises_and_settles(ratings):
    found = movies.als(ratings, k=5, rounds=30)
    assert len(found.objective) == 60 and len(found.rmse) == 30
    steps = np.diff(found.objective)
    assert (steps <= 1e-9 * found.objective[0]).all()
    assert abs(steps[-1]) < 1e-4 * abs(steps[0])


def test_the_objective_and_the_error_are_those_of_the_factors(ratings):
    found = movies.als(ratings, k=4, reg=2.0, rounds=3)
    predicted = found.predict(ratings["user"], ratings["item"])
    squares = np.sum((ratings["rating"] - predicted) ** 2)
    penalty = np.sum(found.user_factors**2) + np.sum(found.item_factors**2)
    assert found.objective[-1] == pytest.approx(squares + 2.0 * penalty)
    assert found.rmse[-1] == pytest.approx(movies.rating_rmse(predicted, ratings))


def test_at_the_optimum_every_user_and_item_is_its_ridge_solution(ratings):
    found = movies.als(ratings, k=3, reg=2.0, rounds=300)
    places = {item: i for i, item in enumerate(found.items)}
    for i in (0, 57, 199):
        mine = ratings[ratings["user"] == found.users[i]]
        seen = found.item_factors[[places[item] for item in mine["item"]]]
        target = mine["rating"].to_numpy() - found.mean
        # the same by augmentation: rows √reg·I with target 0
        rows = np.vstack([seen, np.sqrt(2.0) * np.eye(3)])
        by_lstsq = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(3)]), rcond=None)[0]
        np.testing.assert_allclose(movies.ridge(seen, target, 2.0), by_lstsq, atol=1e-10)
        np.testing.assert_allclose(found.user_factors[i], by_lstsq, atol=1e-5)


def test_five_directions_predict_the_held_out_ratings_best(ratings):
    train, held_out = movies.split_ratings(ratings, 0.2, seed=0)
    errors = {}
    for k in (1, 5, 16):
        found = movies.als(train, k)
        errors[k] = movies.rating_rmse(found.predict(held_out["user"], held_out["item"]), held_out)
    by_mean, by_item = movies.baselines(train, held_out).values()
    assert by_mean == pytest.approx(held_out["rating"].sub(train["rating"].mean()).pow(2).mean() ** 0.5)
    assert errors[5] < 0.54 < 0.6 < errors[16] < by_item < by_mean
    assert errors[5] < 0.75 * errors[1]


def test_the_seed_decides(ratings):
    some = ratings.head(600)
    first, again, other = (movies.als(some, 2, rounds=2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.user_factors, again.user_factors)
    assert not np.array_equal(first.user_factors, other.user_factors)


def test_strangers_get_the_mean():
    _, frame = planted()
    found = movies.als(frame, k=2)
    known, film = frame["user"].iloc[0], frame["item"].iloc[0]
    predicted = found.predict([known, 9, 10_000, known, known], [film, film, film, -1, 10_000])
    assert predicted[0] != found.mean
    assert predicted[1:].tolist() == [found.mean] * 4
    row, column = list(found.users).index(known), list(found.items).index(film)
    assert predicted[0] == pytest.approx(found.table()[row, column])


def test_an_item_that_nobody_rated_in_training_gets_the_mean_as_baseline():
    train = pd.DataFrame({"user": [1, 2], "item": [1, 1], "rating": [2.0, 4.0]})
    held_out = pd.DataFrame({"user": [1, 1], "item": [1, 2], "rating": [3.0, 5.0]})
    assert list(movies.baselines(train, held_out).values()) == pytest.approx([2**0.5, 2**0.5])


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
        movies.als(change(frame), **{"k": 2, **arguments})
