"""Tables of results, once as Markdown for the command line and once as cells for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Cell:
    """Text, whether it is marked as a miss or as good, what chance gives in its place if that is known, and a note."""

    text: str
    missed: bool = False
    chance: str = ""
    good: bool = False
    note: str = ""

    def markdown(self) -> str:
        """The cell; what chance gives in brackets, a miss bold."""
        text = f"{self.text} ({self.chance})" if self.chance else self.text
        return f"**{text}**" if self.missed else text


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header, and what they mean."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str

    def markdown(self) -> str:
        """The table as Markdown."""
        lines = [f"### {self.title}", "", _line(self.header), _line(["---"] * len(self.header))]
        lines += [_line([cell.markdown() for cell in row]) for row in self.rows]
        return "\n".join([*lines, "", self.note, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
