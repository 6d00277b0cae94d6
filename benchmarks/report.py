"""Pages of reports that open without a network, and how numbers are written in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from hepfm.benchmarks.drawings import compact, for_both
from hepfm.core.plots import Theme, to_svg
from hepfm.core.statistics import Estimate

# Errors below this are written with a power of ten.
TINY = 1e-5
TEMPLATES = Path(__file__).parent / "templates"


def number(estimate: Estimate | None) -> str:
    """A value and its error, to two digits of the error."""
    if estimate is None:
        return "not computed"
    if estimate.error <= 1e-9 * abs(estimate.value):  # as of the median of values from a table
        return f"{estimate.value:.3g} ± 0"
    if estimate.error < TINY:
        return f"{estimate.value:.1e} ± {estimate.error:.0e}"
    digits = 0 if estimate.error >= 10 else 1 if estimate.error >= 1 else len(f"{1 / max(estimate.error, 1e-9):.0f}")
    digits = digits if estimate.error >= 1 else digits + 1
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}"


def one_digit(error: float) -> str:
    """An error as tables in a terminal have it: one digit, without an exponent from 10 on."""
    return f"{float(f'{error:.1g}'):g}"


def sections(
    title: str,
    date: str,
    parts: Sequence[Mapping[str, Any]],
    definitions: Sequence[tuple[str, str]],
    provenance: Mapping[str, Any],
    verdicts: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A page of parts, each with ``title``, ``text``, ``notes``, ``tables``, and pictures ``wide`` and ``plots``.

    Args:
        title, date: of the page.
        parts: from top to bottom; :func:`part` makes one.
        definitions: names and sentences.
        provenance: where everything came from; values may be nested.
        verdicts: boxes on top, each with ``title``, ``value``, ``text`` and ``met``.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("sections.html.j2").render(
        title=title, date=date, parts=parts, definitions=definitions, provenance=provenance, verdicts=verdicts
    )


def part(
    title: str,
    text: str = "",
    tables: Sequence[Any] = (),
    wide: Sequence[Mapping[str, str]] = (),
    plots: Sequence[Mapping[str, str]] = (),
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """One part of a page."""
    return {"title": title, "text": text, "tables": tables, "notes": notes, "wide": wide, "plots": plots}


def themed(title: str, name: str, figures: Mapping[Theme, Figure]) -> dict[str, str]:
    """A picture of a page of parts: one drawing for light and dark, or two where they differ in more than colours."""
    drawn: dict[str, str] = {theme: inline_svg(figure, f"{name}-") for theme, figure in figures.items()}
    both = for_both(drawn["light"], drawn["dark"])
    if both is not None:
        return {"title": title, "light": both, "dark": ""}
    return {"title": title, **{theme: inline_svg(figure, f"{name}-{theme}-") for theme, figure in figures.items()}}


def inline_svg(figure: Figure, prefix: str) -> str:
    """A figure for a page: identifiers are local to a picture, but the page holds many, so they get a prefix."""
    return compact(to_svg(figure).decode(), prefix)
