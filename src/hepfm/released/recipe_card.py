"""The card of a model that ships with hepfm: what it is, how good it is, and how to make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hepfm.released.recipe import Recipe, Step

FURTHER = ("_uncertainty", "_floor")  # of a figure, columns of its row


def recipe_card(recipe: Recipe, steps: Sequence[Step], metrics: Mapping[str, Any], parameters: int) -> str:
    """Text of the card, Markdown."""
    minutes = sum(step.seconds for step in steps) / 60
    machines = "; ".join(sorted({f"{step.machine}, {_threads(step.threads)}" for step in steps}))
    commands = "\n".join(step.command for step in steps)
    times = "\n".join(f"| `{' '.join(step.command.split()[1:3])}` | {step.seconds:,.0f} |" for step in steps)
    return f"""# {recipe.name}: {recipe.title}

{parameters:,} parameters, trained on {recipe.data}. Licence {recipe.licence}. Cite: {recipe.citation}

```python
{recipe.use.strip()}
```

{recipe.about.strip()}

## Results

| quantity | value | error | floor |
|---|---|---|---|
{_rows(metrics)}

Errors are statistical (one standard deviation); a floor is what real records have against other real records.

## Made by

    hepfm models retrain {recipe.name} --out FOLDER

which gives these commands in FOLDER; seeds that none of them states are 0:

```
{commands}
```

{minutes:,.0f} minutes in all ({machines}):

| step | seconds |
|---|---|
{times}

`config.json` has settings, versions and corpora by hash; `reference.npz` holds inputs and outputs that loading replays.
"""


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _rows(metrics: Mapping[str, Any]) -> str:
    return "\n".join(_lines(metrics))


def _lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sorted(metrics.items()):
        if name.endswith(FURTHER) and any(name.removesuffix(end) in metrics for end in FURTHER):
            continue
        further = " | ".join(f"{metrics[name + end]:.2g}" if name + end in metrics else "" for end in FURTHER)
        yield (
            f"| {name} | {value:,.5g} | {further} |"
            if isinstance(value, (int, float))
            else f"| {name} | {value} | |  |"
        )
