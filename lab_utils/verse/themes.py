"""Themes for verse, split once and for all, and what it means to keep to a theme.

A theme is either one image in two characters (秋夜) or a setting and an act in four
(秋江 + 送客). No poem whose title is one of these themes is in the pretraining corpus,
and no theme is in two splits.
"""

import hashlib
from functools import cache

from lab_utils.errors import InvalidValue, nearest

SPLITS = {"sft": 0.50, "eval": 0.25, "preference": 0.15, "reward": 0.10}
"""Share of all themes in each split."""

# What belongs to an image: a poem touches the image when it has one of these characters.
IMAGERY = {
    "春": "春花柳莺燕芳桃李东绿",
    "夏": "夏荷蝉暑熏莲榴火热长",
    "秋": "秋霜叶雁菊西露桂萧凉",
    "冬": "冬雪冰寒梅霜朔冻",
    "晓": "晓朝晨曙鸡日晴曦",
    "暮": "暮夕晚斜昏归残",
    "夜": "夜月星灯宵更眠梦烛",
    "寒": "寒冷霜雪冰冻凄",
    "雨": "雨云烟湿滴淋潇",
    "雪": "雪白寒玉冰梅琼",
    "风": "风吹飘飙拂",
    "月": "月明光影蟾圆桂辉",
    "云": "云白山飞浮",
    "江": "江水波舟帆浪潮流",
    "湖": "湖水波烟舟荷",
    "海": "海潮浪涛波沧",
    "溪": "溪水流石涧泉",
    "山": "山峰岭翠青岩云峦",
    "林": "林木树叶幽竹松",
    "竹": "竹翠影篁节",
    "松": "松涛青柏鹤风",
    "梅": "梅香雪寒枝影",
    "兰": "兰香幽芳谷",
    "菊": "菊黄秋霜篱东",
    "荷": "荷莲香水池花",
    "柳": "柳杨丝条绿枝",
    "花": "花红香芳枝开落",
    "草": "草青绿萋芳",
    "楼": "楼高栏台檐",
    "村": "村田家农烟桑",
    "城": "城郭门市墙",
    "寺": "寺僧钟禅佛山",
    "塞": "塞边关胡马沙漠",
    "关": "关山边塞路",
    "渡": "渡舟船津水江",
    "舟": "舟船帆水江",
    "园": "园花亭池径",
    "亭": "亭山水栏台",
    "窗": "窗灯影帘",
    "雁": "雁飞秋云书南",
    "蝉": "蝉鸣声树秋",
    "鹤": "鹤飞云松仙",
    "燕": "燕飞梁春双",
    "莺": "莺啼声柳春",
    "望": "望看见远眺目",
    "听": "听闻声响",
    "闻": "听闻声响",
    "笛": "笛声吹曲",
    "钟": "钟声寺山",
    "送": "送别离去归行",
    "客": "客行旅路别",
    "怀": "怀思忆念想",
    "思": "思念忆愁想心",
    "乡": "乡家归故园",
    "独": "独孤自一",
    "酌": "酒杯醉樽酌饮",
    "酒": "酒杯醉樽酌饮",
    "泊": "泊舟船宿水",
    "行": "行路去马征",
    "归": "归回来还家",
    "访": "访寻门来问",
    "僧": "僧禅寺佛",
    "垂": "垂钓鱼竿矶",
    "琴": "琴弦声曲调音",
    "书": "书读卷诗灯",
    "茶": "茶煮香泉",
    "登": "登高上台楼",
    "梦": "梦眠枕觉",
    "友": "友朋故君人",
    "古": "古今旧前朝",
    "感": "感愁叹伤悲",
}

SETTINGS = (
    "春江 春山 春城 春园 春溪 春村 夏日 夏夜 荷塘 湖亭 秋江 秋山 秋林 秋村 秋园 秋窗 "
    "寒江 寒夜 寒山 寒村 冬夜 雪夜 雪山 江楼 江村 江亭 山寺 山居 山亭 溪亭 湖上 海上 "
    "塞上 关山 边城 古渡 古寺 竹林 松林 花园 柳岸 月夜 雨夜 雨窗 孤舟 南楼 西楼 晓山 暮江"
).split()
ACTS = (
    "望月 望云 听雨 听雁 听蝉 闻笛 闻钟 闻莺 送客 送友 怀友 怀古 思乡 独坐 独酌 独行 对酒 "
    "夜泊 晓行 晚归 访友 访僧 访梅 垂钓 弹琴 读书 煮茶 看花 看雪 寻梅 登高 感怀 梦归 归舟"
).split()
IMAGES = (
    "春雨 春风 春月 春草 春柳 春雪 春夜 春晓 春梦 夏雨 夏荷 夏蝉 夏云 夏木 秋月 秋风 秋雨 秋夜 "
    "秋雁 秋草 秋菊 秋水 秋思 秋声 冬雪 冬月 冬日 寒梅 寒松 寒雁 寒月 寒雨 晓月 晓风 晓雪 晓莺 "
    "暮雨 暮雪 暮云 暮山 夜雨 夜雪 夜月 夜钟 夜泊 山雨 山月 山云 山花 山泉 江月 江雪 江雨 江风 "
    "湖月 湖雨 海月 溪月 溪雨 溪云 竹风 竹月 松风 松月 松雪 梅花 梅雪 兰花 菊花 荷花 柳絮 柳风 "
    "落花 落叶 落梅 新柳 新荷 新竹 新燕 早梅 早春 早秋 晚菊 晚春 晚秋 残雪 残荷 残月 孤雁 孤松 "
    "古松 古寺 登楼 登山 送友 送别 怀人 思乡 独酌 闻笛 闻雁 闻蝉 听琴 弹琴 读书 煮茶 垂钓 归舟"
).split()


@cache
def themes(split: str | None = None) -> tuple[str, ...]:
    """Themes of one split, in a fixed order that mixes images and settings; all without a name.

    The split of a theme hangs on the hash of its name alone, so adding themes moves none.

    Raises InvalidValue for a split that is not in `SPLITS`.
    """
    if split is not None and split not in SPLITS:
        raise InvalidValue(
            f"不认识的划分 (split) {split!r}", f"{nearest(split, SPLITS)}可用的是 {'、'.join(SPLITS)}"
        )
    every = list(dict.fromkeys([*IMAGES, *(setting + act for setting in SETTINGS for act in ACTS)]))
    every.sort(key=_hash01)
    return tuple(theme for theme in every if split is None or _split_of(theme) == split)


def theme_words(theme: str) -> tuple[str, ...]:
    """For each image in `theme`, the characters that count as touching it.

    A character without an entry in `IMAGERY` counts only itself.
    """
    return tuple("".join(dict.fromkeys(char + IMAGERY.get(char, ""))) for char in theme)


def on_theme(text: str, theme: str) -> bool:
    """True when `text` touches at least half of the images of `theme`.

    >>> on_theme("霜落千山静", "秋夜")
    True
    >>> on_theme("千山静", "秋夜")
    False
    """
    words = theme_words(theme)
    touched = sum(any(char in text for char in group) for group in words)
    return bool(words) and touched * 2 >= len(words)


def _hash01(theme: str) -> float:
    return int.from_bytes(hashlib.sha256(theme.encode()).digest()[:6], "big") / 2**48


def _split_of(theme: str) -> str:
    edge = 0.0
    for split, share in SPLITS.items():
        edge += share
        if _hash01(theme) < edge:
            return split
    return split
