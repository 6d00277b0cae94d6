"""README.md of an exported graph: what a user of another language has to know."""

from __future__ import annotations

from typing import Any

SHOWN = 12


def page(description: dict[str, Any]) -> str:
    """The text for a graph that :func:`hepfm.finetune.export.describe` described."""
    particles, jet, mask = description["inputs"]
    output, reference = description["output"], description["reference"]
    names = output["columns"][: output["scores"]]
    listed = ", ".join(f"`{name}`" for name in names[:SHOWN])
    if len(names) > SHOWN:
        listed += f", ... `{names[-1]}`"
    apart = reference["largest_difference"]
    rescale = description["preparation"]["rescale_pt_gev"]
    scaled = f" Four-vectors are scaled to a jet of {rescale:g} GeV there." if rescale else ""
    most = particles["most_particles"]
    return f"""# `{description["graph"]}`: a tagger of jets

An ONNX graph (opset {description["opset"]}) of the {description["model"]["network"]} with hash
`{description["model"]["hash"]}`. It takes particles as they are: features, their standardisation and the softmax are in
the graph.{scaled} `model.json` says all of this for programs.

## Inputs

Numbers are float32, row-major. `jets` and `particles` may be any sizes.

`particles` (jets, particles, {len(particles["columns"])}): of each particle

| column | name | unit | meaning |
|---|---|---|---|
{_rows(particles["columns"])}

Particles of a jet stand in order of falling pt, the leading {most} at most: leave out the others.

`jet` (jets, {len(jet["columns"])}): of each jet

| column | name | unit | meaning |
|---|---|---|---|
{_rows(jet["columns"])}

`mask` (jets, particles): {mask["meaning"]}. Pad to the longest jet of a batch, or give jets one by one without padding:
scores are the same.

## Output

`{output["name"]}` (jets, {output["shape"][1]}): first {output["scores"]} scores, which add up to 1, then
{output["embedding"]} numbers of the embedding. Scores in order: {listed}; `model.json` has them all under
`output.columns`.

A discriminant is a ratio of summed scores: S / (S + B), where S are the scores of the signal's classes and B those of
the background's.

## From C++

With ONNX Runtime's C++ interface: make one `Ort::Value` an input with `Ort::Value::CreateTensor<float>` from a
`std::vector<float>` in the layout above and the shape as `std::array<int64_t, 3>` (2 for `jet` and `mask`), call
`session.Run(options, {{"particles", "jet", "mask"}}, values, 3, {{"{output["name"]}"}}, 1)`, and read
`result[0].GetTensorData<float>()`: jet i's score of class c is at `i * {output["shape"][1]} + c`.

## Check

`{reference["file"]}` holds {reference["jets"]} jets of 1 to {reference["jets"]} particles (`particles`, `jet`,
`mask`) and the `output` that ONNX Runtime gave for them, at most {apart["scores"]:.1g} (scores) and
{apart["embedding"]:.1g} (embedding) from PyTorch's:

    import numpy, onnxruntime
    reference = numpy.load("{reference["file"]}")
    session = onnxruntime.InferenceSession("{description["graph"]}")
    output = session.run(None, {{name: reference[name] for name in ("particles", "jet", "mask")}})[0]
    print(abs(output - reference["output"]).max())
"""


def _rows(columns: list[dict[str, str]]) -> str:
    return "\n".join(
        f"| {number} | {column['name']} | {column['unit']} | {column['meaning']} |"
        for number, column in enumerate(columns)
    )
