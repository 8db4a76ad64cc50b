from collections import Counter
from statistics import mean

from lab_utils import course
from lab_utils.data.builders import movie_ratings
from lab_utils.data.card import read_card

SHIPPED = course.root() / "datasets" / "movie_ratings"


def test_the_script_makes_the_shipped_files_byte_by_byte(tmp_path):
    card = (SHIPPED / "README.md").read_bytes()
    (tmp_path / "README.md").write_bytes(card)
    movie_ratings.build(tmp_path)
    for name in ("ratings.csv", "movies.csv"):
        assert (tmp_path / name).read_bytes() == (SHIPPED / name).read_bytes()
    assert (tmp_path / "README.md").read_bytes() == card


def test_another_seed_makes_another_table(tmp_path):
    (tmp_path / "README.md").write_bytes((SHIPPED / "README.md").read_bytes())
    movie_ratings.build(tmp_path, seed=1)
    assert (tmp_path / "ratings.csv").read_bytes() != (SHIPPED / "ratings.csv").read_bytes()


def test_twelve_films_of_each_genre_whose_name_comes_first():
    movies = read_card(SHIPPED).rows("movies")
    genres = [movie["genres"].split("|") for movie in movies]
    assert Counter(first for first, *_ in genres) == dict.fromkeys(movie_ratings.GENRES, 12)
    for movie, (first, *more) in zip(movies, genres, strict=True):
        assert movie["title"].split(" (")[0] in movie_ratings.TITLES[first].split()
        assert len(more) <= 1 and set(more) <= set(movie_ratings.GENRES) - {first}


def test_figures_of_the_card():
    card = read_card(SHIPPED)
    ratings = card.rows("ratings")
    assert f"{len(ratings)} 个分" in card.prose
    assert f"打出来的分平均 {mean(row['rating'] for row in ratings):.2f}" in card.prose
    for field, words in (("userId", "每人打 {} 到 {} 个分"), ("movieId", "每部片有 {} 到 {} 个分")):
        counts = Counter(row[field] for row in ratings).values()
        assert words.format(min(counts), max(counts)) in card.prose


def test_times_rise_with_each_user():
    times = [(row["userId"], row["timestamp"]) for row in read_card(SHIPPED).rows("ratings")]
    assert times == sorted(times) and len(set(times)) == len(times)
