"""README, CONTRIBUTING and CHANGELOG as pages of the site: a page that says ``<!-- file: README.md -->`` becomes it.

Their links are written for the repository's root. Those to pages lead to pages, those to other files to these files.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
FILE = re.compile(r"<!-- file: (\S+) -->\n")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def for_the_site(text: str) -> str:
    """Text with links from the repository's root as text with links from ``docs/``."""

    def moved(found: re.Match[str]) -> str:
        image, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        if "://" in target:
            return found[0]
        if target in PAGES:
            return f"{image}[{words}]({PAGES[target]}{anchor})"
        if target.startswith("docs/"):
            return f"{image}[{words}]({target.removeprefix('docs/')}{anchor})"
        if (ROOT / target).is_dir():
            return words  # a folder of the repository has no page
        return f"{image}[{words}](../{target}{anchor})"

    return LINK.sub(moved, text)


def _read(app: Sphinx, name: str, content: list[str]) -> None:
    for found in FILE.findall(content[0]):
        text = for_the_site((ROOT / found).read_text())
        content[0] = content[0].replace(f"<!-- file: {found} -->\n", text)
        app.env.note_dependency(str(ROOT / found), docname=name)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
