"""Reports as one HTML file: nothing in it comes from elsewhere, and it runs no script.

Owns the page. Refuses to own what it says (the views) and pictures (drawing.py, inline_svg.py).
"""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files

from jinja2 import Environment
from markupsafe import Markup

from loadtest.reporting import drawing
from loadtest.reporting.content import Content, Plot, drawable
from loadtest.reporting.inline_svg import inline

_TEMPLATES = files("loadtest.reporting")


def page(contents: Sequence[Content]) -> str:
    """Several reports one after another; the first one's title is the page's."""
    style = (_TEMPLATES / "page.css").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((_TEMPLATES / "page.html").read_text("utf-8"))
    return template.render(
        contents=[(content, _pictures(number, content)) for number, content in enumerate(contents, 1)],
        style=Markup(style),  # noqa: S704  our own file
        style_hash=b64encode(sha256(style.encode()).digest()).decode(),
    )


def _pictures(number: int, content: Content) -> list[tuple[Plot, Markup]]:
    pictures = []
    for plot in map(drawable, content.plots):
        prefix = f"r{number}-{plot.name}"
        svg = "" if plot.empty else inline(drawing.svg(plot), prefix, plot.words)
        pictures.append((plot, Markup(svg)))  # noqa: S704  matplotlib's, serialised as XML
    return pictures
