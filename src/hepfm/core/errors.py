"""The one error a user sees: what happened, where, and how to mend it, on one line (exit code 2)."""

from __future__ import annotations


class HepfmError(Exception):
    """Bad input or a bad request, told so that the reader can act on it.

    Args:
        what: what is wrong, in one clause ("the tree has no branch 'part_px'").
        where: the file, record or option concerned.
        mend: what the user can do about it.
    """

    def __init__(self, what: str, where: object = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, str(where), mend
        super().__init__(what, where, mend)

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        mend = f" ({self.mend})" if self.mend else ""
        return " ".join(f"{where}{self.what}{mend}".split())
