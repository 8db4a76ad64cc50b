"""The course's own ratings table, in MovieLens' format, from tastes that were planted in it.

Every user and every film has three taste factors and a bias; a rating is their sum with noise, rounded to half
stars. Who rates what is not chance: people watch what is popular and what suits them.
`python -m lab_utils.data.builders.movie_ratings` re-makes `datasets/movie_ratings`.
"""

import csv
import math
import random
from pathlib import Path

from lab_utils.data.card import update_card

USERS = 200
MEAN = 3.3
USER_BIAS, ITEM_BIAS, TASTE, NOISE = 0.35, 0.4, 0.75, 0.4
"""Standard deviations, in stars, of what a rating is the sum of."""
BEGIN, END = 1_704_067_200, 1_735_603_200
"""2024-01-01 and 2024-12-31, 00:00 UTC, in seconds since 1970."""

GENRES = {
    "剧情": (-0.9, -0.6, -0.3),
    "喜剧": (1.3, -0.3, 0.0),
    "爱情": (0.3, -0.4, -1.3),
    "动作": (0.4, 0.1, 1.4),
    "科幻": (-0.1, 1.4, 0.4),
    "悬疑": (-1.0, 0.2, 0.7),
    "武侠": (0.2, 0.7, 1.1),
    "动画": (1.1, 1.0, -0.5),
    "历史": (-0.8, -0.9, 0.3),
    "纪录": (-0.5, -1.3, -0.6),
}
"""Genre -> where its films lie on the three axes: light or grave, fantastic or real, action or feeling."""

TITLES = {
    "剧情": "搬走最后一张课桌 码头上的会计 母亲的缝纫机 西街修表铺 三号窑的冬天 借来的户口本 渡口小学 盐田来信 旧厂房的钟 父亲不认路 一斤粮票 夜班邮差老周",
    "喜剧": "我家猫当了居委会主任 错寄的相亲照 胖厨师减肥记 三个和尚开民宿 丈母娘的直播间 村口第一届奥运会 请假条大王 会说谎的闹钟 倒霉的吉祥物 借车风波之后 老赵学英语 婚礼上的第七桌",
    "爱情": "等一场迟到的梅雨 你欠我一封回信 南站末班车以后 桂花巷十七号 我们约在灯塔下 两把伞的距离 异地第一千天 她把夏天留给我 唱片店的左耳机 写给北方的明信片 樱桃熟了就回来 隔壁的琴声停了",
    "动作": "铁索桥突围 七十二分钟追缉 码头飞车队 拳馆关门之前 断崖下的营救 黑鹭行动组 拆弹手老何 高原护送 逆风索降 雨林边防连 霓虹街的拳头 台风眼里的快艇",
    "科幻": "月背气象站 第九次回收地球 租用记忆的人 轨道上的稻田 量子邮局 最后一代机器人管家 火星方言 云端母亲 海王星慢船 欠时间的人 仿生人的户籍 零号温室",
    "悬疑": "第十三层电梯 雾港失踪者 证人席空着 档案室的灯 消失的值班表 雨天旅馆的客人 河底的汽车 红漆信箱 午夜来电三声 无人认领的行李 第三位画师 枯井里的回声",
    "武侠": "青衫过渡口 寒铁令 竹海听刀 落雁镖局 一剑过三峡 断弦琴师 雪夜还刀 天山借马 酒旗下的哑剑客 半本剑谱 孤帆客栈 镖旗不倒",
    "动画": "小螃蟹搬家 会飞的竹蜻蜓村 灶王爷的假期 小狐狸学写字 纸船漂流队 年兽怕什么 肥皂泡上的国王 阿福和萤火虫 石狮子出走记 胡萝卜骑士团 云朵牧羊犬 风筝城的孩子",
    "历史": "长安修城记 运河漕船 边关一封家书 史官不改字 盐铁之辩 少年使臣 窑变之年 敦煌抄经人 万里茶船 汴河夜雨 屯田校尉 驿站换马人",
    "纪录": "灯塔守护员 一碗面的二十四小时 候鸟迁徙笔记 最后的手摇渡船 高原上的小学 胡同里的修鞋匠 沙漠种树人 极地科考日志 夜市凌晨四点 消失的乡音 深海热泉旁 山里的木匠",
}
"""First genre -> titles, invented for this set."""


def build(folder: Path, seed: int = 0) -> None:
    """Write `ratings.csv` and `movies.csv` to `folder`, and bring the figures of its card up to date."""
    rng = random.Random(seed)
    movies = _movies(rng)
    ratings = _ratings(rng, [movie["tastes"] for movie in movies])
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "movies.csv", ("movieId", "title", "genres"), movies)
    _write(folder / "ratings.csv", ("userId", "movieId", "rating", "timestamp"), ratings)
    update_card(folder)


def _movies(rng: random.Random) -> list[dict]:
    """Films in random order, with `tastes`, three numbers, which aren't written to the file."""
    named = [(title, genre) for genre, titles in TITLES.items() for title in titles.split()]
    rng.shuffle(named)
    movies = []
    for number, (title, first) in enumerate(named, 1):
        others = [genre for genre in GENRES if genre != first]
        genres = [first, *rng.sample(others, rng.choice((0, 1, 1)))]
        axes = zip(*(GENRES[genre] for genre in genres), strict=True)
        tastes = [sum(axis) / len(genres) + rng.gauss(0, 0.4) for axis in axes]
        title = f"{title} ({rng.randint(1988, 2023)})"
        movies.append({"movieId": number, "title": title, "genres": "|".join(genres), "tastes": tastes})
    return movies


def _ratings(rng: random.Random, films: list[list[float]]) -> list[dict]:
    """Ratings by user, then time; `films`: the tastes of each film."""
    spread = math.sqrt(sum(taste**2 for film in films for taste in film) / len(films))
    item_bias = [rng.gauss(0, ITEM_BIAS) for _ in films]
    fame = [rng.gauss(0, 0.8) for _ in films]
    rows = []
    for user in range(1, USERS + 1):
        likes = [rng.gauss(0, 1) for _ in range(3)]
        bias = rng.gauss(0, USER_BIAS)
        count = min(80, max(12, round(rng.lognormvariate(3.3, 0.45))))
        suits = [TASTE * sum(a * b for a, b in zip(likes, film, strict=True)) / spread for film in films]
        # The `count` largest of log(weight) + Gumbel noise: sampling without replacement by weight.
        appeal = [
            f + s + b - math.log(-math.log(rng.random()))
            for f, s, b in zip(fame, suits, item_bias, strict=True)
        ]
        seen = sorted(range(len(films)), key=appeal.__getitem__, reverse=True)[:count]
        rng.shuffle(seen)
        times = sorted(rng.sample(range(BEGIN, END), count))
        for film, timestamp in zip(seen, times, strict=True):
            stars = MEAN + bias + item_bias[film] + suits[film] + rng.gauss(0, NOISE)
            rating = min(5.0, max(0.5, round(2 * stars) / 2))
            rows.append({"userId": user, "movieId": film + 1, "rating": rating, "timestamp": timestamp})
    return rows


def _write(path: Path, fields: tuple[str, ...], rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    from lab_utils import course

    build(course.root() / "datasets" / "movie_ratings")
