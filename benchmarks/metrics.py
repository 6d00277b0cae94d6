"""The field's metrics: ``from hepfm.benchmarks import metrics``. Definitions and constants: docs/metrics.md.

Every function takes arrays, packed jets (:class:`hepfm.core.observables.Constituents`) or showers that are read in
chunks (:class:`ShowerSample`). What is wrong with them is a :class:`hepfm.core.errors.HepfmError`; :func:`jet_scores`
and :func:`shower_scores` compute all that can be and say of the rest why not.
"""

from __future__ import annotations

from hepfm.benchmarks.scores.classifier_inputs import Image, Inputs, Table, Voxels, high_level
from hepfm.benchmarks.scores.classifiers import SPLITS, Score, Scores, Split, Training, classify, dnn, judge
from hepfm.benchmarks.scores.emd import Coverage, coverage_and_mmd, energy_movers_distance
from hepfm.benchmarks.scores.energy_flow import connected_polynomials, energy_flow_polynomials, prime_polynomials
from hepfm.benchmarks.scores.ild import IldObservables, IldScore, ild_observables, ild_scores
from hepfm.benchmarks.scores.jet_batches import (
    PROTOCOLS,
    Distances,
    Protocol,
    relative,
    w1_features,
    w1efp,
    w1m,
    w1p,
)
from hepfm.benchmarks.scores.jet_suite import JetScores, jet_scores
from hepfm.benchmarks.scores.jet_values import JetSide, constituent_quantities, defined, jet_inputs, jet_quantities
from hepfm.benchmarks.scores.manifolds import Manifolds, manifolds
from hepfm.benchmarks.scores.one_dimensional import (
    kl_divergence,
    quantile_edges,
    quantiled_kl,
    quantiled_kl_estimate,
    quantiled_kl_floor,
    quantiled_kl_published,
    separation_power_estimate,
    separation_power_floor,
)
from hepfm.benchmarks.scores.outcome import Outcome, attempt
from hepfm.benchmarks.scores.physics_distances import FPD_SIZES, KPD_BATCH, Sizes, fpd, frechet_distance, kpd
from hepfm.benchmarks.scores.posteriors import Posterior, log_posteriors
from hepfm.benchmarks.scores.resnet import ResNet3d, resnet
from hepfm.benchmarks.scores.shower_features import ShowerFeatures, shower_features
from hepfm.benchmarks.scores.shower_histograms import (
    Separation,
    separation_powers,
    voxel_edges,
    voxel_separation,
    voxel_spectrum,
)
from hepfm.benchmarks.scores.shower_relations import (
    EnergyBin,
    conditional_response,
    correlation_difference,
    correlation_floor,
    layer_correlations,
)
from hepfm.benchmarks.scores.shower_suite import ShowerScores, ShowerSide, log_voxels, shower_scores
from hepfm.benchmarks.scores.showers import Hits, ShowerSample, check_alike, check_energies, read_showers
from hepfm.benchmarks.scores.suite_parts import Seconds
from hepfm.core.statistics import (
    Estimate,
    Floor,
    Values,
    separation_power,
    wasserstein_1,
    wasserstein_1_estimate,
    wasserstein_1_floor,
)

__all__ = [
    "FPD_SIZES",
    "KPD_BATCH",
    "PROTOCOLS",
    "SPLITS",
    "Coverage",
    "Distances",
    "EnergyBin",
    "Estimate",
    "Floor",
    "Hits",
    "IldObservables",
    "IldScore",
    "Image",
    "Inputs",
    "JetScores",
    "JetSide",
    "Manifolds",
    "Outcome",
    "Posterior",
    "Protocol",
    "ResNet3d",
    "Score",
    "Scores",
    "Seconds",
    "Separation",
    "ShowerFeatures",
    "ShowerSample",
    "ShowerScores",
    "ShowerSide",
    "Sizes",
    "Split",
    "Table",
    "Training",
    "Values",
    "Voxels",
    "attempt",
    "check_alike",
    "check_energies",
    "classify",
    "conditional_response",
    "connected_polynomials",
    "constituent_quantities",
    "correlation_difference",
    "correlation_floor",
    "coverage_and_mmd",
    "defined",
    "dnn",
    "energy_flow_polynomials",
    "energy_movers_distance",
    "fpd",
    "frechet_distance",
    "high_level",
    "ild_observables",
    "ild_scores",
    "jet_inputs",
    "jet_quantities",
    "jet_scores",
    "judge",
    "kl_divergence",
    "kpd",
    "layer_correlations",
    "log_posteriors",
    "log_voxels",
    "manifolds",
    "prime_polynomials",
    "quantile_edges",
    "quantiled_kl",
    "quantiled_kl_estimate",
    "quantiled_kl_floor",
    "quantiled_kl_published",
    "read_showers",
    "relative",
    "resnet",
    "separation_power",
    "separation_power_estimate",
    "separation_power_floor",
    "separation_powers",
    "shower_features",
    "shower_scores",
    "voxel_edges",
    "voxel_separation",
    "voxel_spectrum",
    "w1_features",
    "w1efp",
    "w1m",
    "w1p",
    "wasserstein_1",
    "wasserstein_1_estimate",
    "wasserstein_1_floor",
]
