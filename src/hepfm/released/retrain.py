"""``hepfm models retrain``: a model that ships with hepfm, made again from nothing by its recipe."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from tyro.conf import Positional

from hepfm.benchmarks.workload import machine
from hepfm.core.artifacts import Artifact, locate, read_artifact, write_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.files import locked, read_json, write_json, write_text
from hepfm.core.progress import say
from hepfm.core.runs import lasting
from hepfm.released.recipe import Recipe, Step, read_recipe, recipes, result_of
from hepfm.released.recipe_card import recipe_card
from hepfm.released.report_figures import figures_of

STEPS = "steps.json"


@dataclass(frozen=True)
class RetrainConfig:
    """Make a model that ships with hepfm again, from nothing: simulate, tokenize, train, judge, write its artifact.

    Run again after an interruption, it continues where it was stopped. Steps that several models share (the simulated
    corpus) are made once in one folder. The artifact is then FOLDER/NAME.
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the model, or a YAML file with a recipe of your own (those in hepfm/released/recipes show how)."""
    out: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder for everything that is made on the way."""
    show: bool = False
    """Print the commands and do nothing."""


def main(config: RetrainConfig) -> None:
    """Do what is not done, write the artifact, print its path."""
    recipe = _recipe(config.name)
    if config.show:
        sys.stdout.write("".join(f"{_typed(command)}\n" for command in recipe.commands))
        return
    with locked(config.out):
        made = retrain(recipe, config.out.resolve())
    sys.stdout.write(f"{config.out / made.path.relative_to(config.out.resolve())}\n")


def _recipe(name: str) -> Recipe:
    known = recipes()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix == ".yaml" and path.is_file():
        return read_recipe(path)
    raise HepfmError(
        f"no recipe is called '{name}'", "models retrain", f"there is: {', '.join(known)}; or a file .yaml"
    )


def retrain(recipe: Recipe, out: Path) -> Artifact:
    """Follow a recipe in a folder.

    Raises:
        HepfmError: as the commands do; a step that is none, before the first begins.
    """
    for command, step in zip(recipe.commands, recipe.steps, strict=True):
        try:
            importlib.import_module("hepfm.cli").settings_of(command)
        except HepfmError as error:
            raise HepfmError(f"step '{step}': {error}", recipe.name) from error
    for name, text in recipe.files.items():
        write_text(out / name, text)
    done = [_step(command, out, f"{number}/{len(recipe.steps)}") for number, command in enumerate(recipe.commands, 1)]
    return _artifact(recipe, out, done)


def _step(command: tuple[str, ...], out: Path, number: str) -> Step:
    """Do a step, unless it is done and its result is there."""
    typed = _typed(command)
    known = read_json(out / STEPS) if (out / STEPS).exists() else {}
    if typed in known and (out / result_of(command)).exists():
        say(f"== {number} done before: {typed}")
        return Step(typed, **known[typed])
    say(f"== {number} {typed}")
    started = time.monotonic()
    with contextlib.chdir(out), _called(command):
        importlib.import_module("hepfm.cli").run(command)
    step = Step(typed, round(time.monotonic() - started, 1), machine(), torch.get_num_threads())
    told = {name: value for name, value in vars(step).items() if name != "command"}
    write_json(out / STEPS, {**known, typed: told})
    say(f"== {number} {step.seconds:,.0f} s")
    return step


@contextlib.contextmanager
def _called(command: tuple[str, ...]) -> Iterator[None]:
    """Reports tell the command line that made them."""
    before, sys.argv = sys.argv, [sys.argv[0], *command]
    try:
        yield
    finally:
        sys.argv = before


def _typed(command: tuple[str, ...]) -> str:
    return shlex.join(("hepfm", *command))


def _artifact(recipe: Recipe, out: Path, done: list[Step]) -> Artifact:
    """The run's artifact with the name, the figures and the card of the model."""
    run = read_artifact(locate(out / recipe.run))
    metrics = lasting(run.metrics())
    for report in recipe.reports:
        metrics |= figures_of(out / report)
    provenance = {
        **{name: known for name, known in run.provenance.items() if name != "versions"},
        "name": recipe.name,
        "licence": recipe.licence,
        "citation": recipe.citation,
        "data": recipe.data,
        "recipe": {
            "command": f"hepfm models retrain {recipe.name} --out FOLDER",
            "steps": [vars(step) for step in done],
        },
    }
    inner = {Path(name).parts[0] for name in _files(run) if len(Path(name).parts) > 1}
    return write_artifact(
        out / recipe.name / "artifact",
        kind=run.kind,
        architecture=run.architecture,
        contract=run.contract,
        provenance=provenance,
        weights=run.weights(),
        metrics=metrics,
        reference=run.reference(),
        card=recipe_card(recipe, done, metrics),
        inner={name: run.inner(name) for name in sorted(inner)},
    )


def _files(artifact: Artifact) -> list[str]:
    return sorted(str(file.relative_to(artifact.path)) for file in artifact.path.rglob("*") if file.is_file())
