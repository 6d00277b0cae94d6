"""One page for each group of commands, with what ``--help`` prints, made anew at each build."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from sphinx.application import Sphinx

from hepfm.cli import COMMANDS, find
from hepfm.core.config import parse
from hepfm.ingest.simulate.command import SAMPLES
from hepfm.ingest.sources.registry import SOURCES
from hepfm.tokenize.registry import TOKENIZERS

FOLDER = Path(__file__).resolve().parents[1] / "reference" / "commands"
WIDTH = 92
TERMINAL = {"COLUMNS": str(WIDTH), "NO_COLOR": "1", "TERM": "dumb"}
AS_IT_IS: Any = {"replace_whitespace": False, "drop_whitespace": False, "break_on_hyphens": False}
# Commands whose options depend on a word of theirs.
VARIANTS: dict[str, list[list[str]]] = {
    "ingest": [[name] for name in SOURCES],
    "ingest pythia": [[name] for name in SAMPLES],
    "tokenizer fit": [["--tokenizer", name] for name in TOKENIZERS],
}


def help_of(arguments: Sequence[str]) -> str:
    """What ``hepfm ARGUMENTS --help`` prints."""
    command, rest = find(arguments)
    module = importlib.import_module(command.module)
    config_type: Any = getattr(module, command.config)
    if not isinstance(config_type, type):
        config_type = config_type(rest)
    printed = io.StringIO()
    with mock.patch.dict(os.environ, TERMINAL), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        parse(config_type, [*rest, "--help"], prog=f"hepfm {command.words}")
    text = re.sub(r"\n{3,}", "\n\n", printed.getvalue().strip())
    lines = [line for long in text.splitlines() for line in textwrap.wrap(long, WIDTH, **AS_IT_IS) or [""]]
    return "\n".join(line.rstrip() for line in lines)


def page(group: str) -> str:
    """The page of the commands that begin with the word ``group``."""
    parts = [f"# hepfm {group}\n"]
    for command in sorted((one for one in COMMANDS if one.words.split()[0] == group), key=lambda one: one.words):
        if command.words != group:
            parts.append(f"## {_heading(command.words)}\n")
        told = f"{command.help[0].upper()}{command.help[1:]}"
        parts.append(told + ("\n" if told.endswith(".") else ".\n"))
        deeper = "##" if command.words == group else "###"
        words = command.words.split()
        for extra in VARIANTS.get(command.words, [[]]):
            if extra:
                parts.append(f"{deeper} {_heading(' '.join([*words, *extra]))}\n")
            parts.append(f"```text\n{help_of([*words, *extra])}\n```\n")
    return "\n".join(parts)


def _heading(words: str) -> str:
    """As code where two hyphens would become a dash."""
    return f"`hepfm {words}`" if "--" in words else f"hepfm {words}"


def write(app: Sphinx) -> None:
    """Write the pages, and one that lists them; a page that stays the same keeps its time."""
    FOLDER.mkdir(exist_ok=True)
    groups = list(dict.fromkeys(command.words.split()[0] for command in COMMANDS))
    rows = "\n".join(
        f"| [`hepfm {command.words}`]({command.words.split()[0]}.md) | {command.help} |" for command in COMMANDS
    )
    listed = "\n".join(groups)
    pages = {group: page(group) for group in groups} | {
        "index": "# Commands\n\nWhat `--help` says of each command, with units and defaults.\n\n"
        f"| command | what it does |\n|---|---|\n{rows}\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"
    }
    for name, text in pages.items():
        path = FOLDER / f"{name}.md"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
