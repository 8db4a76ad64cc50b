"""A page to chat on: the conversation, a line to write in, a menu of models; text alone where no widget can be shown."""

import html
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

from lab_utils import plots
from lab_utils.errors import InvalidValue
from lab_utils.widgets.front_end import VIEW, has_somebody_to_move_it, message_html, title_html


class ChatPage:
    """A page to chat on: the conversation, a line to write in, a menu of models.

    Where widgets are shown it is that; everywhere else it is the conversation as it stands, and
    `say(…)` goes on with it.
    """

    def __init__(self, ask: Callable[[str, list[dict]], Iterable[str]], names: Sequence[str], title: str):
        """`ask(model, messages)` gives the pieces of the answer as they come; what it raises is shown."""
        if not names:
            raise InvalidValue("至少要有一个模型的名字 (names)，才能聊天")
        self.title, self.names, self.model = title, tuple(names), names[0]
        self.turns: list[dict] = []
        """The conversation: `role`, `content`, and for an answer the `model` that gave it."""
        self._ask = ask

    def say(self, text: str, model: str | None = None) -> "ChatPage":
        """Say `text` to `model`, the one chosen last if None; the page itself, so that it shows at a cell's end.

        Raises ValueError for an empty text or an unknown model, and what the model's server raises; the
        conversation is then as before.
        """
        if model is not None and model not in self.names:
            raise InvalidValue(f"没有叫 {model!r} 的模型", f"可以选的有：{'、'.join(self.names)}")
        if not text.strip():
            raise InvalidValue("先写点什么 (text)，再发送")
        self.model = model or self.model
        before = len(self.turns)
        self.turns += [
            {"role": "user", "content": text},
            {"role": "assistant", "content": "", "model": self.model},
        ]
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in self.turns[:-1]]
        try:
            for piece in self._ask(self.model, messages):
                self.turns[-1]["content"] += piece
                self._refresh()
        except BaseException:
            del self.turns[before:]
            raise
        finally:
            self._refresh()
        return self

    def clear(self) -> "ChatPage":
        """Begin a new conversation."""
        self.turns.clear()
        self._refresh()
        return self

    @cached_property
    def view(self):
        """The page as one widget."""
        import ipywidgets

        self._talk = ipywidgets.HTML(self.html())
        self._problem = ipywidgets.HTML()
        self.menu = ipywidgets.Dropdown(options=self.names, value=self.model, layout={"width": "220px"})
        self.line = ipywidgets.Text(placeholder="写点什么，按回车发送", layout={"flex": "1 1 auto"})
        self.line.continuous_update = False
        self.send = ipywidgets.Button(description="发送", button_style="primary", layout={"width": "80px"})
        again = ipywidgets.Button(description="新对话", layout={"width": "80px"})
        self.send.on_click(self._sent)
        again.on_click(lambda _: self.clear())
        title = ipywidgets.HTML(title_html(self.title))
        row = ipywidgets.HBox([self.line, self.send, again])
        return ipywidgets.VBox(
            [title, self.menu, self._talk, self._problem, row], layout={"max_width": "780px"}
        )

    def _sent(self, _) -> None:
        """Somebody pressed the button."""
        text, self.line.value, self._problem.value = self.line.value, "", ""
        self.send.disabled = True
        try:
            self.say(text, self.menu.value)
        except Exception as problem:  # whatever the server says is for the one who sits before the page
            self._problem.value = message_html(problem)
            self.line.value = text
        finally:
            self.send.disabled = False

    def _refresh(self) -> None:
        if "view" in vars(self):
            self._talk.value = self.html()

    def html(self) -> str:
        """The conversation as HTML."""
        shown = []
        for turn in self.turns:
            from_user = turn["role"] == "user"
            who = "你" if from_user else turn["model"]
            side = "margin-left:25%" if from_user else "margin-right:25%"
            edge = plots.BRIGHT if from_user else plots.DARK
            shown.append(
                f"<div style='{side};border-left:4px solid {edge};padding:4px 10px;margin-top:6px;line-height:1.6'>"
                f"<span style='opacity:.6'>{html.escape(who)}</span><br>"
                f"<span style='white-space:pre-wrap'>{html.escape(turn['content'])}</span></div>"
            )
        return "".join(shown) or "<div style='opacity:.6'>还没有说话。</div>"

    def __str__(self) -> str:
        lines = [f"{'你' if t['role'] == 'user' else t['model']}：{t['content']}" for t in self.turns]
        return "\n".join([self.title, *(lines or ["还没有说话。"])])

    __repr__ = __str__

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        """The conversation as text and HTML, and the widget where somebody can write."""
        way = "在 JupyterLab 里运行这一格，就可以接着聊；没有输入框的地方用 .say('…')。"
        text = f"<h4>{html.escape(self.title)}</h4>{self.html()}<p style='opacity:.7'>{way}</p>"
        bundle = {"text/plain": str(self), "text/html": text}
        if has_somebody_to_move_it():
            bundle[VIEW] = self.view._repr_mimebundle_()[VIEW]
        return bundle


def chat_page(server, title: str = "和模型聊天", **options) -> ChatPage:
    """A chat page on a running server: anything with `names` and `client()`, as `serving.serve` gives.

    `options` go with every request: `temperature`, `max_tokens`, `extra_body` …
    """
    from lab_utils.serving.clients import pieces

    client = server.client(max_retries=0)
    return ChatPage(lambda model, messages: pieces(client, model, messages, **options), server.names, title)
