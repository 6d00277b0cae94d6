"""Recipes: how a model that ships with hepfm is made from nothing, a YAML file each in ``recipes/``.

A recipe is the list of hepfm's own commands, in order, from the simulation to the reports that judge the model.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hepfm.core.config import from_dict, read_yaml
from hepfm.core.errors import HepfmError

FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Recipe:
    """How a model is made.

    Attributes:
        name: what a user calls it.
        title: what it is, in a line.
        data: what it is trained on, in a few words.
        licence: of its weights.
        citation: what to cite.
        about: what it is good for and where it falls short, Markdown.
        use: lines of Python.
        steps: commands, without ``hepfm``; paths are relative to the folder in which it is made.
        run: the run whose artifact it is.
        reports: folders of the reports that judge it, in the order of their figures.
        files: small files that the commands read, by name.
    """

    name: str
    title: str
    data: str
    licence: str
    citation: str
    about: str
    use: str
    steps: tuple[str, ...]
    run: str
    reports: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)

    @property
    def commands(self) -> tuple[tuple[str, ...], ...]:
        """The words of each step."""
        return tuple(tuple(shlex.split(step)) for step in self.steps)


@dataclass(frozen=True)
class Step:
    """A step that was done.

    Attributes:
        command: as a user would type it in the folder.
        seconds: that its last call took; of an interrupted one without the calls before.
        machine: on which.
        threads: of the matrix products; another number gives other last digits.
    """

    command: str
    seconds: float
    machine: str
    threads: int


@cache
def recipes() -> dict[str, Recipe]:
    """Every recipe by name.

    Raises:
        HepfmError: one is broken.
    """
    return {path.stem: read_recipe(path) for path in sorted(FOLDER.glob("*.yaml"))}


def read_recipe(path: Path) -> Recipe:
    """Read one recipe.

    Raises:
        HepfmError: an entry is missing, unknown or of the wrong type, or a step that says not where its result goes.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise HepfmError("is no recipe", path)
    recipe = from_dict(Recipe, {**data, "name": path.stem}, path)
    for step in recipe.steps:
        try:
            result_of(tuple(shlex.split(step)))
        except ValueError as error:
            raise HepfmError(f"step '{step}': {error}", path) from error
    for name in recipe.files:
        if Path(name).name != name:
            raise HepfmError(f"names a file outside the folder: {name!r}", path)
    return recipe


def result_of(command: tuple[str, ...]) -> str:
    """Where the result of a step goes.

    Raises:
        ValueError: it does not say.
    """
    if "--out" not in command[:-1]:
        raise ValueError("names no --out")
    return command[command.index("--out") + 1]
