"""The card of a backbone: the README.md of its artifact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hepfm.pretrain.backbone import Backbone, BackboneConfig


def card(backbone: Backbone, provenance: dict[str, Any], metrics: dict[str, Any]) -> str:
    """Text that tells a reader what this backbone is, what it was trained on, and how to use it."""
    blocks = backbone.config.transformer
    lengths, records = provenance["lengths"], provenance["records"]
    points = {"jets": "constituents", "showers": "hits"}.get(records, "points")
    one = records.removesuffix("s")
    corpora = "\n".join(
        f"- {entry['records']:,} {records} of the token corpus `{entry['digest']}`" for entry in provenance["corpora"]
    )
    mixture = provenance["mixture"]
    mixed = f"\nThey are read by the weights of the mixture `{mixture['digest']}`.\n" if mixture else ""
    parent = f"\nIt continues from the backbone with hash `{provenance['parent']}`.\n" if provenance["parent"] else ""
    of = "streams" if backbone.config.streams else f"{one} features" if backbone.config.features else f"{one} tokens"
    return f"""# Backbone over {of}

{_what(backbone.config, provenance["objective"], one, points)}: {metrics["parameters"]:,} parameters,
{blocks.blocks} blocks, width {blocks.width}, {ids_of(backbone.config)}.
{_tokenizers(provenance["tokenizers"])}
{parent}
## Data

{corpora}
{mixed}
{lengths["jets"]:,} {records} an epoch with {lengths["mean"]:.1f} {points} on average. {lengths["cut_jets"]:,} of them
had more than {provenance["max_length"]} and were cut there; these have no stop token.

{_told(backbone)}## Results

{_table(metrics)}

Losses are per term: nats per real token, the stop token included, for the next token; per masked constituent for
masked objectives; for several streams per point, of all its ids and the density of its number. They compare only under
the same tokenizer and objective; the accuracy of a probe compares always.

## Use

    {_use(backbone.config, records)}

`reference.npz` holds inputs and outputs that loading replays. Its settings are in `config.json`.
"""


def _tokenizers(hashes: Sequence[str]) -> str:
    """Which tokenizers the ids are of, one after another in the vocabulary."""
    first = f"Tokens are those of the tokenizer in `tokenizer/` (hash `{hashes[0]}`)"
    others = "".join(
        f",\nthen of that in `tokenizer_{number}/` (hash `{hash}`)" for number, hash in enumerate(hashes[1:], 2)
    )
    return f"{first}{others}."


def ids_of(config: BackboneConfig) -> str:
    """The ids of a point, in words, and how many steps each lags behind."""
    streams = config.streams
    if streams is None:
        return f"{config.codes:,} codes"
    parts = [
        f"{label} {codes:,} (delay {delay})"
        for label, codes, delay in zip(streams.labels, streams.codes, streams.delays, strict=True)
    ]
    if number := streams.number:
        parts.append(f"{number.meaning} {number.low:.3g} to {number.high:.3g} (delay {number.delay})")
    return f"streams {', '.join(parts)}"


def _told(backbone: Backbone) -> str:
    """What it is told of a record, and what training had of it."""
    if not backbone.config.conditions:
        return ""
    rows = "\n".join(f"| {known.name} | {known.seen} |" for known in backbone.config.conditions)
    return f"""## What it is told of a record

`hepfm generate` takes these by name; what is not asked for is drawn as in training.

| condition | in training |
|---|---|
{rows}

"""


def _what(config: BackboneConfig, task: dict[str, Any], one: str, points: str) -> str:
    """What the network is, and what it learned by."""
    ways = {
        "next-streams": "A causal transformer that predicts the next step of several streams",
        "next-token": f"A causal transformer that predicts the next token of a {one}",
        "joint": f"A transformer that predicts the next token of a {one} (causal) and masked {points} (bidirectional)",
    }
    known = ways.get(config.objective, f"A transformer that predicts masked {points} of a {one}")
    masks = f", {task['mask_fraction']:.0%} masked, target {task['target']}" if task["mask_fraction"] else ""
    return f"{known} (objective {config.objective}{masks})"


def _use(config: BackboneConfig, records: str) -> str:
    if config.cannot_generate:
        return "backbone, artifact = hepfm.pretrain.backbone.load_backbone(THIS_FOLDER)  # it cannot generate"
    if records == "jets":
        return "hepfm generate THIS_FOLDER -n 1000 --format jetclass --out jets.root"
    if records == "showers" and "incident_energy" in {known.name for known in config.conditions}:
        return "hepfm generate THIS_FOLDER -n 1000 --format showerdata --out showers.h5"
    which = " --data-set NAME" if records == "records" else ""
    return f"hepfm generate THIS_FOLDER -n 1000{which} --format corpus --out generated/"


def _table(metrics: dict[str, Any]) -> str:
    rows = "\n".join(f"| {name} | {value:,.6g} |" for name, value in sorted(metrics.items()))
    return f"| quantity | value |\n|---|---|\n{rows}"
