"""Figures as small SVG inside a page: short numbers and identifiers, and one drawing for light and dark pages."""

from __future__ import annotations

import re
from collections import Counter

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
DIGITS = 2  # after the point, of lengths in points: a hundredth of one cannot be seen
_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_GLYPHS = re.compile(r"(?<=scale\()[^)]*|(?<=matrix\()[^)]*")
_STYLE = re.compile(r' style="([^"]*)"')
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_IDENTIFIER = re.compile(r'\bid="([^"]+)"')
_USED = re.compile(r'href="#([^"]+)"|url\(#([^)]+)\)')


def compact(svg: str, prefix: str) -> str:
    """The same drawing in fewer bytes, ready for a page that holds many.

    Lengths are rounded to hundredths of a point; identifiers that nothing refers to go, the others become ``prefix``
    and a number, in the order in which they occur.
    """
    svg = _METADATA.sub("", svg[svg.index("<svg") :])
    scales = _GLYPHS.findall(svg)
    svg = _NUMBER.sub(lambda found: f"{float(found[0]):.{DIGITS}f}".rstrip("0").rstrip("."), svg)
    kept = iter(scales)
    svg = _GLYPHS.sub(lambda _: next(kept), svg)
    used = {first or second for first, second in _USED.findall(svg)}
    names = {name: f"{prefix}{number}" for number, name in enumerate(n for n in _IDENTIFIER.findall(svg) if n in used)}
    svg = _IDENTIFIER.sub(lambda found: f'id="{names[found[1]]}"' if found[1] in names else "", svg)
    svg = re.sub(r'(href="#)([^"]+)', lambda found: found[1] + names.get(found[2], found[2]), svg)
    svg = re.sub(r"(url\(#)([^)]+)", lambda found: found[1] + names.get(found[2], found[2]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)  # lines of a path end in a space already
    svg = re.sub(r"> <", "><", svg).replace(" >", ">").replace("; stroke", ";stroke").replace(": ", ":")
    return _classed(re.sub(r"<g>((?:(?!<g).)*?)</g>", r"\1", svg), prefix)


def _classed(svg: str, prefix: str) -> str:
    """Styles that come again and again as classes: ticks and errors have few, and many elements each."""
    counts = Counter(_STYLE.findall(svg))
    names = {style: f"{prefix}c{number}" for number, style in enumerate(s for s, n in counts.items() if n > 1)}
    rules = "".join(f".{name}{{{style}}}" for style, name in names.items())
    svg = _STYLE.sub(lambda found: f' class="{names[found[1]]}"' if found[1] in names else found[0], svg)
    return svg.replace("</style>", f"{rules}</style>", 1)


def for_both(light: str, dark: str) -> str | None:
    """One drawing whose colours follow the page, of two that differ in colours alone; None if they differ in more."""
    if COLOUR.sub("#", light) != COLOUR.sub("#", dark):
        return None
    pairs = list(zip(COLOUR.findall(light), COLOUR.findall(dark), strict=True))
    names = {pair: f"--{pair[0][1:]}-{pair[1][1:]}" for pair in dict.fromkeys(pairs) if pair[0] != pair[1]}
    each = iter(pairs)

    def named(_: re.Match[str]) -> str:
        pair = next(each)
        return f"var({names[pair]})" if pair in names else pair[0]

    drawing = COLOUR.sub(named, light)
    rules = [";".join(f"{name}:{pair[side]}" for pair, name in names.items()) for side in (0, 1)]
    style = f"<style>:root{{{rules[0]}}}@media (prefers-color-scheme:dark){{:root{{{rules[1]}}}}}</style>"
    head = drawing.index(">") + 1
    return drawing[:head] + style + drawing[head:]
