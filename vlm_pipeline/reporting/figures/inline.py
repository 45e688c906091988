"""Turn a matplotlib SVG into markup that lives inside the page.

The page's content security policy forbids style attributes, so they become presentation attributes; palette colours
become classes, so that the page's light or dark scheme decides what they look like; ids are made unique to the figure.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from vlm_pipeline.reporting.figures.palette import CLASSES

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_REFERENCE = re.compile(r"url\(#([^)]+)\)")
_FONT_PROPERTIES = {"font", "font-family", "font-stretch", "font-variant", "font-style"}

ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def inline_svg(svg: str, name: str, alt: str, look: str = "figure") -> str:
    """Markup of one `<svg>` element with `role="img"` and `alt` as its label."""
    root = ElementTree.fromstring(svg)
    _drop_metadata(root)
    used = set(_REFERENCE.findall(svg)) | {
        value[1:] for e in root.iter() if (value := e.get(_XLINK, "")).startswith("#")
    }
    for element in root.iter():
        _unstyle(element)
        _rename(element, name, used)
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-label": alt, "class": look}
    return ElementTree.tostring(root, encoding="unicode")


def _drop_metadata(root: ElementTree.Element) -> None:
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style", f"{_SVG}title"):
                parent.remove(child)
            elif child.tag == f"{_SVG}defs" and len(child) == 1 and child[0].tag == f"{_SVG}style":
                parent.remove(child)


def _unstyle(element: ElementTree.Element) -> None:
    classes: list[str] = []
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if not value:
            continue
        if key == "font":
            _font(element, value)
        elif key not in _FONT_PROPERTIES and key != "mix-blend-mode":
            element.set(key, value)
    for key, prefix in (("fill", "f"), ("stroke", "s")):
        token = CLASSES.get(element.get(key, "").lower())
        if token:
            del element.attrib[key]
            classes.append(f"{prefix}-{token}")
    if element.tag == f"{_SVG}text" and "fill" not in element.attrib and not classes:
        classes.append("f-ink")
    if classes:
        element.set("class", " ".join(classes))


def _font(element: ElementTree.Element, value: str) -> None:
    """Keep size and weight; the family is the page's."""
    size = re.search(r"([\d.]+)px", value)
    if size:
        element.set("font-size", size.group(1))
    if "bold" in value or re.search(r"\b[67]00\b", value):
        element.set("font-weight", "600")


def _rename(element: ElementTree.Element, name: str, used: set[str]) -> None:
    identity = element.attrib.pop("id", None)
    if identity in used:
        element.set("id", f"{name}-{identity}")
    for key, value in element.attrib.items():
        if "url(#" in value:
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
        elif key == _XLINK and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
