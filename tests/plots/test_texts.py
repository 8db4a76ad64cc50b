"""What of a conversation is learned, shown token by token as HTML."""

from lab_utils import plots


def test_token_mask_marks_only_supervised_tokens_and_escapes():
    page = plots.token_mask(["<b>", "好", "\n"], [False, True, False])
    assert "&lt;b&gt;" in page and "<b>" not in page
    assert page.count(f"background:{plots.BRIGHT}") == 1 and "⏎" in page
