"""matplotlib's SVG made fit for a page: no style of its own, the page's colours, names that no other picture has.

Owns this translation. Inline styles become attributes, so that a content security policy may forbid styles in the
page; colours become the page's variables, so that they follow its palette.
"""

import re
from xml.etree import ElementTree as ET

from loadtest.reporting import drawing

VARIABLES = {
    drawing.INK: "ink",
    drawing.SOFT: "soft",
    drawing.RULE: "rule",
    drawing.REFERENCE: "reference",
    **{colour: f"series-{index}" for index, colour in enumerate(drawing.COLOURS, 1)},
}
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"
_LEFT_OUT = {f"{_SVG}metadata", f"{_SVG}style"}
_FROM_THE_PAGE = {"font", "font-family", "-inkscape-font-specification"}


def inline(svg: str, prefix: str, label: str) -> str:
    """An `<svg>` element. Prefix: of its identifiers; label: for readers who cannot see it."""
    ET.register_namespace("", _SVG.strip("{}"))
    root = ET.fromstring(svg)  # noqa: S314  ours
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag in _LEFT_OUT]:
            parent.remove(child)
    for element in root.iter():
        element.attrib.update(_attributes(element.attrib.pop("style", "")))
        for key, value in list(element.attrib.items()):
            element.attrib[key] = _own(key, value, prefix)
        if _HREF in element.attrib:
            element.attrib["href"] = element.attrib.pop(_HREF)
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"role": "img", "aria-label": drawing.printable(label)}
    return ET.tostring(root, encoding="unicode")


def _attributes(style: str) -> dict[str, str]:
    pairs = (declaration.partition(":") for declaration in style.split(";") if declaration.strip())
    found = {name.strip(): value.strip() for name, _, value in pairs}
    return {name: value for name, value in found.items() if name not in _FROM_THE_PAGE}


def _own(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"{prefix}-{value}"
    if name == _HREF:
        return f"#{prefix}-{value[1:]}"
    if value in VARIABLES:
        return f"var(--{VARIABLES[value]})"
    return re.sub(r"url\(#", f"url(#{prefix}-", value)
