"""The chat page: a conversation, as a widget and as text."""

import pytest

from lab_utils import widgets
from lab_utils.widgets.front_end import VIEW


@pytest.fixture
def page():
    """A page whose models answer with their name and what they were last told, in two pieces."""

    def ask(model, messages):
        if messages[-1]["content"] == "错":
            yield "说了一半"
            raise ConnectionError("服务停了")
        yield f"{model} 听到第 {len(messages)} 句："
        yield messages[-1]["content"]

    return widgets.ChatPage(ask, ["base", "poet"], "聊天")


def test_a_conversation_goes_on_and_changes_its_model(page):
    assert page.say("你好") is page
    page.say("<b>再说</b>", "poet")
    assert [turn["content"] for turn in page.turns] == [
        "你好",
        "base 听到第 1 句：你好",
        "<b>再说</b>",
        "poet 听到第 3 句：<b>再说</b>",
    ]
    assert [turn.get("model") for turn in page.turns] == [None, "base", None, "poet"]
    assert "&lt;b&gt;再说" in page.html() and "<b>再说" not in page.html()
    assert str(page).splitlines()[1:3] == ["你：你好", "base：base 听到第 1 句：你好"]
    assert page.clear().turns == []


def test_what_goes_wrong_leaves_the_conversation_as_it_was(page):
    page.say("你好")
    before = list(page.turns)
    with pytest.raises(ConnectionError):
        page.say("错")
    for text, model, message in (("  ", None, "先写点什么"), ("嗨", "gpt", "没有叫 'gpt' 的模型")):
        with pytest.raises(ValueError, match=message):
            page.say(text, model)
    assert page.turns == before and page.model == "base"
    with pytest.raises(ValueError, match="至少要有一个模型"):
        widgets.ChatPage(lambda model, messages: [], [], "聊天")


def test_the_page_as_a_widget_sends_what_is_written_and_shows_what_went_wrong(page):
    assert VIEW in page._repr_mimebundle_()
    _, _, talk, problem, _ = page.view.children
    page.menu.value, page.line.value = "poet", "春"
    page.send.click()
    assert page.turns[-1] == {"role": "assistant", "content": "poet 听到第 1 句：春", "model": "poet"}
    assert "听到第 1 句：春" in talk.value and page.line.value == ""
    page.line.value = "错"
    page.send.click()
    assert "服务停了" in problem.value and page.line.value == "错" and not page.send.disabled
    assert len(page.turns) == 2


def test_the_page_is_text_where_nobody_can_write(page, monkeypatch):
    monkeypatch.setenv("LAB_HEADLESS", "1")
    bundle = page.say("你好")._repr_mimebundle_()
    assert (
        VIEW not in bundle and "听到第 1 句" in bundle["text/html"] and "听到第 1 句" in bundle["text/plain"]
    )
