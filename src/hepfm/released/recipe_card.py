"""The card of a model that ships with hepfm: what it is, how good it is, and how to make it again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hepfm.released.figure_words import meanings, unit_of
from hepfm.released.recipe import Recipe, Step

FURTHER = ("_uncertainty", "_floor")  # of a figure, columns of its row


def recipe_card(recipe: Recipe, steps: Sequence[Step], metrics: Mapping[str, Any]) -> str:
    """Text of the card, Markdown."""
    minutes = sum(step.seconds for step in steps) / 60
    machines = "; ".join(sorted({f"{step.machine}, {_threads(step.threads)}" for step in steps}))
    commands = "\n".join(step.command for step in steps)
    meant = "\n".join(meanings(_figures(metrics)))
    times = "\n".join(f"| `{' '.join(step.command.split()[1:3])}` | {step.seconds:,.0f} |" for step in steps)
    return f"""# {recipe.name}: {recipe.title}

{metrics["parameters"]:,} parameters, trained on {recipe.data}. Licence {recipe.licence}. Cite: {recipe.citation}

```python
{recipe.use.strip()}
```

{recipe.about.strip()}

## Results

| figure | unit | value | error | floor |
|---|---|---|---|---|
{_rows(metrics)}

Errors are statistical (one standard deviation); a floor is what held-out records have against other held-out records.

{meant}

## Made by

    hepfm models retrain {recipe.name} --out FOLDER

which gives these commands in FOLDER; seeds that none of them states are 0:

```
{commands}
```

{minutes:,.0f} minutes in all ({machines}), of a step that was interrupted its last call alone:

| step | seconds |
|---|---|
{times}

`config.json` has settings, versions and corpora by hash; `reference.npz` holds inputs and outputs that loading replays.
"""


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _rows(metrics: Mapping[str, Any]) -> str:
    """A row for each figure, with its error and floor where they are known."""
    rows = []
    for name in _figures(metrics):
        error, floor = (metrics.get(name + end) for end in FURTHER)
        cells = [unit_of(name), _cell(metrics[name], error), _rounded(error), _rounded(floor)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    return sorted(metrics.keys() - {name + end for name in metrics for end in FURTHER})


def _cell(value: Any, error: float | None) -> str:
    if isinstance(value, float) and error:
        digits = 1 - math.floor(math.log10(error))  # to the second digit of the error
        return f"{round(value, digits):,.{max(digits, 0)}f}"
    if isinstance(value, float):
        return f"{value:,.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _rounded(value: float | None) -> str:
    """Two digits."""
    if value is None:
        return ""
    text = f"{value:.2g}"
    return f"{float(text):,.0f}" if "e+" in text else text
