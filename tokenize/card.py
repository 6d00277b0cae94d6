"""The card of a tokenizer: the README.md of its artifact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.features import FeatureSpec

if TYPE_CHECKING:
    from hepfm.tokenize.registry import Tokenizer


def card(tokenizer: Tokenizer, provenance: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Text that tells a reader what this tokenizer is, what it takes, how good it is, and how to use it."""
    point = {"jets": "constituent of a jet", "showers": "hit of a shower"}[tokenizer.contract.kind]
    return f"""# Tokenizer of {tokenizer.contract.kind} ({tokenizer.kind})

Turns every {point} into {_ids(tokenizer)}, and back.

## What it takes

{_contract(tokenizer.contract)}

{_meaning(tokenizer.contract)} A corpus that differs is refused.

## Data

- {provenance["corpus"]["records"]:,} {tokenizer.contract.kind} of the corpus `{provenance["corpus"]["digest"]}`

## Results

Measured on the split `{metrics["measured_on"]}`.

{_table(metrics)}

## Use

    hepfm tokenizer apply THIS_FOLDER CORPUS --out TOKENS

`reference.npz` holds features, ids and decoded values that loading replays. Its settings are in `config.json`.
"""


def _meaning(contract: FeatureContract) -> str:
    sentences = []
    if contract.kind == "jets":
        sentences.append(f"Angles refer to the axis `{contract.axis}`; decoded constituents are {contract.mass}.")
    if contract.conditions:
        names = ", ".join(condition.name for condition in contract.conditions)
        sentences.append(f"Decoding is told {names} of each record.")
    return " ".join(sentences)


def _ids(tokenizer: Tokenizer) -> str:
    if len(tokenizer.streams) == 1:
        ids = f"one of {tokenizer.codes:,} token ids"
    else:
        ids = f"ids {' x '.join(f'{stream.name} ({stream.codes:,})' for stream in tokenizer.streams)}"
    return f"{ids} and a number ({tokenizer.continuous})" if tokenizer.continuous else ids


def _contract(contract: FeatureContract) -> str:
    rows = "\n".join(
        f"| {feature.name} | {feature.unit} | {_formula(feature)} | {_range(feature)} |"
        for feature in contract.features + contract.conditions
    )
    return f"| quantity | unit | feature | fitted on |\n|---|---|---|---|\n{rows}"


def _formula(feature: FeatureSpec) -> str:
    if feature.categories:
        return f"one of {', '.join(map(str, feature.categories))}"
    inner = f"x / {feature.inner:g}" if feature.inner != 1 else "x"
    null = ", or null" if feature.null_with else ""
    return f"({feature.transform}({inner}) - {feature.shift:g}) * {feature.scale:g}{null}"


def _range(feature: FeatureSpec) -> str:
    return f"{feature.seen['min']:.4g} to {feature.seen['max']:.4g}" if feature.seen else ""


def _table(metrics: dict[str, Any]) -> str:
    rows = "\n".join(
        f"| {name} | {value:,.6g} |" for name, value in sorted(metrics.items()) if not isinstance(value, str)
    )
    return f"| quantity | value |\n|---|---|\n{rows}"
