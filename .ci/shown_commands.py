"""Does every command that a page shows exist, with every option that it uses?"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from hepfm.cli import COMMANDS, find
from hepfm.core.config import parse

ROOT = Path(__file__).resolve().parents[1]
_helps: dict[str, str] = {}


def shown(block: str) -> Iterator[list[str]]:
    """Commands in a shell block: continuation lines joined, prompts, pipes and comments dropped."""
    for line in block.replace("\\\n", " ").splitlines():
        line = line.strip().removeprefix("$ ")
        if re.match(r"(\S+/)?(hepfm|make)\b", line):
            yield shlex.split(line.split(" | ")[0], comments=True)


def problem(words: list[str]) -> str | None:
    """What is wrong with one shown command."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"make has no target {unknown}" if unknown else None
    rest = words[1:]
    if not rest or rest[0].startswith("-"):
        return None
    name = next((one.words for one in COMMANDS if rest[: len(one.words.split())] == one.words.split()), None)
    if name is None:
        return "no such command"
    following = rest[len(name.split()) :]
    if name in ("ingest", "ingest pythia") and following and not following[0].startswith("-"):
        name = f"{name} {following[0]}"  # the options depend on the source, or on the sample
    if name == "tokenizer fit" and "--tokenizer" in rest[:-1]:
        name = f"{name} --tokenizer {rest[rest.index('--tokenizer') + 1]}"
    options = [word.split("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)]
    told = _help(name)
    missing = [option for option in options if option != "--config" and not re.search(rf"(?<!\S){option}\b", told)]
    return f"no option {missing}" if missing else None


def _help(name: str) -> str:
    if name not in _helps:
        command, rest = find(name.split())
        config = getattr(importlib.import_module(command.module), command.config)
        config = config if isinstance(config, type) else config(rest)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            parse(config, [*rest, "--help"], prog=name)
        _helps[name] = printed.getvalue() + " ".join(word for word in name.split() if word.startswith("--"))
    return _helps[name]
