"""What a generator has to beat: jets built from independently drawn tokens."""

from __future__ import annotations

import numpy as np

from hepfm.core.draws import generator


def independent_tokens(
    tokens: np.ndarray, jets: int, codes: int, n: int, max_length: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences whose every token is drawn from the training frequencies, whatever came before.

    Stop is one of the tokens, so the multiplicity is geometric with the mean of the training jets. As in generation, a
    sequence has at least one constituent, and ends at ``max_length``.

    Args:
        tokens: (N,) codes of all training jets.
        jets: how many training jets they are, each with one stop.
        codes: size of the codebook.
        n: sequences to make.
        max_length: most constituents of a sequence.
        seed: of the draws.

    Returns:
        Codes (M,) and offsets (n + 1,).
    """
    counts = np.bincount(tokens, minlength=codes).astype(np.float64)
    stop = jets / (jets + counts.sum())
    draws = generator("independent tokens", seed)
    lengths = np.minimum(draws.geometric(stop, n), max_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return draws.choice(codes, offsets[-1], p=counts / counts.sum()), offsets
