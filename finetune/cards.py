"""Cards of taggers and regressors: what they are, what they were trained on, how to use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hepfm.finetune.regression import Target


def tagger_card(
    architecture: str, classes: Sequence[str], reads: str, provenance: dict[str, Any], metrics: dict[str, Any]
) -> str:
    """Text that tells a reader what this tagger is, what it was trained on, and how to use it."""
    names = ", ".join(classes[:20]) + (", ..." if len(classes) > 20 else "")
    return _card(
        f"Tagger of jets: {architecture}",
        f"Tells {len(classes)} classes apart: {names}. It reads {reads}; `config.json` describes it.",
        "Losses are in nats per jet; validation figures are of the validation split's first jets.",
        "hepfm evaluate tagging THIS_FOLDER CORPUS --out REPORT",
        provenance,
        metrics,
    )


def regressor_card(
    architecture: str, target: Target, reads: str, provenance: dict[str, Any], metrics: dict[str, Any]
) -> str:
    """Text that tells a reader what this regressor is, what it was trained on, and how to use it."""
    range_ = f"{target.low:g} to {target.high:g} {target.unit}"
    return _card(
        f"Regressor: {architecture}",
        f"Estimates {target.name} [{target.unit}], in training {range_}. It reads {reads}; `config.json` describes it.",
        "Losses are Huber's of the standardised target, the absolute error is in its standard deviations "
        f"({target.std:.4g} of the {target.transform} value); validation "
        "figures are of the validation split's first records.",
        "hepfm evaluate regression THIS_FOLDER CORPUS --out REPORT",
        provenance,
        metrics,
    )


def _card(title: str, what: str, losses: str, command: str, provenance: dict[str, Any], metrics: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value:,.6g} |" for name, value in sorted(metrics.items()))
    corpora = "\n".join(f"- corpus `{c['digest']}`: {c['records']:,} training records" for c in provenance["corpora"])
    mixture = provenance["mixture"]
    mixed = f"\nThey are read by the weights of the mixture `{mixture['digest']}`.\n" if mixture else ""
    return f"""# {title}

{what}

## Data

{corpora}
{mixed}
{provenance["jets"]:,} records an epoch.

## Results

| quantity | value |
|---|---|
{rows}

{losses}

## Use

    {command}

`reference.npz` holds inputs and outputs that loading replays.
"""
