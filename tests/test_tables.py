"""Tables as HTML and as text."""

from lab_utils.tables import Html, html_table, text_table


def test_cells_are_escaped_unless_they_are_html():
    shown = html_table(["<a>"], [["1 < 2"], [Html("<b>3</b>")]], caption="甲 & 乙")
    assert "<caption>甲 &amp; 乙</caption>" in shown
    assert "<th>&lt;a&gt;</th>" in shown and "<td>1 &lt; 2</td>" in shown and "<td><b>3</b></td>" in shown


def test_each_column_has_its_style_and_the_last_serves_those_beyond():
    shown = html_table(["a", "b"], [["1", "2", "3"]], cell_styles=["color:red", "color:blue"])
    assert shown.count("<th style='color:red'>a</th><th style='color:blue'>b</th>") == 1
    assert "<td style='color:blue'>2</td><td style='color:blue'>3</td>" in shown


def test_a_row_of_the_text_table_is_aligned_where_chinese_is_two_wide():
    rows = [("嵌入", "1"), ("a", "1,000")]
    head, rule, first, second = text_table(("部分", "参数量"), rows, ["██", ""]).split("\n")
    assert head == "部分  参数量"
    assert rule == "─" * 12
    assert first == "嵌入       1  ██"
    assert second == "a      1,000"
