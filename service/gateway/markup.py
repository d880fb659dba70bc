"""HTML and SVG made so that text cannot become markup: what is not `Html` is escaped.

Owns escaping. Refuses to own what pages say (status_view.py) and how charts are drawn (status_charts.py).
"""

from collections.abc import Sequence
from html import escape

Value = str | int | float | bool | None


class Html(str):
    """Markup already; only this module's functions and trusted files make it."""

    __slots__ = ()


def html(tag: str, *children: str | None, **attributes: Value) -> Html:
    """An element. Attributes: `class_` is class, `aria_label` aria-label; None and False leave one out."""
    named = "".join(map(_attribute, attributes, attributes.values()))
    return Html(f"<{tag}{named}>{joined(*children)}</{tag}>")


def joined(*children: str | None) -> Html:
    """Several things one after another."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child))


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], **attributes: Value) -> Html:
    """A table whose first column names its rows; it scrolls by itself where it is wider than the page."""
    head = html("tr", *(html("th", name, scope="col") for name in heads))
    body = [html("tr", html("th", row[0], scope="row"), *(html("td", cell) for cell in row[1:])) for row in rows]
    parts = (html("caption", caption), html("thead", head), html("tbody", *body))
    return html(
        "div", html("table", *parts, **attributes), class_="scroll", tabindex=0, role="group", aria_label=caption
    )


def definitions(*pairs: tuple[str, str | None], **attributes: Value) -> Html:
    """A list of names and values; what has no value is left out."""
    found = (html("div", html("dt", name), html("dd", value)) for name, value in pairs if value)
    return html("dl", *found, **attributes)


def _attribute(name: str, value: Value) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
