"""The card of a model that ships with hepfm: what it is, how good it is, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hepfm.released.recipe import Recipe, Step

FURTHER = ("_uncertainty", "_floor")  # of a figure, columns of its row


def recipe_card(recipe: Recipe, steps: Sequence[Step], metrics: Mapping[str, Any]) -> str:
    """Text of the card, Markdown."""
    minutes = sum(step.seconds for step in steps) / 60
    machines = "; ".join(sorted({f"{step.machine}, {_threads(step.threads)}" for step in steps}))
    commands = "\n".join(step.command for step in steps)
    times = "\n".join(f"| `{' '.join(step.command.split()[1:3])}` | {step.seconds:,.0f} |" for step in steps)
    return f"""# {recipe.name}: {recipe.title}

{metrics["parameters"]:,} parameters, trained on {recipe.data}. Licence {recipe.licence}. Cite: {recipe.citation}

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
    """A row for each figure, with its error and floor where they are known."""
    further = {name + end for name in metrics for end in FURTHER if name + end in metrics}
    rows = []
    for name in sorted(metrics.keys() - further):
        cells = [
            _cell(metrics[name]),
            *(f"{metrics[name + end]:.2g}" if name + end in further else "" for end in FURTHER),
        ]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.5g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
