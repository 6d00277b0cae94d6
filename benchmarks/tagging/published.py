"""Published results of taggers, so that a measured row can be put under them.

JetClass: Qu, Li, Qian, arXiv:2202.03772, tables 1 and 2, with MIParT (arXiv:2407.08682) and L-GATr (arXiv:2411.00446),
100 M training jets where not said otherwise. Top tagging and quark-gluon: the public landscape sets.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A published tagger.

    Attributes:
        name: with the number of training jets where it matters.
        accuracy, auc: as published.
        rejections: of each column's signal; None where not published.
    """

    name: str
    accuracy: float
    auc: float
    rejections: tuple[float | None, ...]


@dataclass(frozen=True)
class Benchmark:
    """A public data set's table.

    Attributes:
        title: of the table.
        classes: that a corpus must have to be compared with it.
        background: what the others are told apart from.
        columns: (signal, efficiency) of each rejection.
        rows: published taggers.
        note: where the numbers come from, and what differs.
    """

    title: str
    classes: frozenset[str]
    background: str
    columns: tuple[tuple[str, float], ...]
    rows: tuple[Row, ...]
    note: str


_JETCLASS_COLUMNS = (
    ("Hbb", 0.5),
    ("Hcc", 0.5),
    ("Hgg", 0.5),
    ("H4q", 0.5),
    ("Hqql", 0.99),
    ("Tbqq", 0.5),
    ("Tbl", 0.995),
    ("Wqq", 0.5),
    ("Zqq", 0.5),
)
JETCLASS = Benchmark(
    "JetClass",
    frozenset({"QCD", *(name for name, _ in _JETCLASS_COLUMNS)}),
    "QCD",
    _JETCLASS_COLUMNS,
    (
        Row("PFN", 0.772, 0.9714, (2924, 841, 75, 198, 265, 797, 721, 189, 159)),
        Row("P-CNN", 0.809, 0.9789, (4890, 1276, 88, 474, 947, 2907, 2304, 241, 204)),
        Row("ParticleNet (2 M)", 0.828, 0.9820, (5540, 1681, 90, 662, 1654, 4049, 4673, 260, 215)),
        Row("ParticleNet", 0.844, 0.9849, (7634, 2475, 104, 954, 3339, 10526, 11173, 347, 283)),
        Row("ParT (2 M)", 0.836, 0.9834, (5587, 1982, 93, 761, 1609, 6061, 4474, 307, 236)),
        Row("ParT (10 M)", 0.850, 0.9860, (8734, 3040, 110, 1274, 3257, 12579, 8969, 431, 324)),
        Row("ParT", 0.861, 0.9877, (10638, 4149, 123, 1864, 5479, 32787, 15873, 543, 402)),
        Row("ParT plain", 0.849, 0.9859, (9569, 2911, 112, 1185, 3868, 17699, 12987, 384, 311)),
        Row("MIParT-L", 0.861, 0.9878, (10753, 4202, 123, 1927, 5450, 31250, 16807, 542, 402)),
        Row("L-GATr", 0.866, 0.9885, (12987, 4819, 128, 2311, 6116, 47619, 20408, 588, 432)),
    ),
    "Published rows are of JetClass's 20 M test jets; rejections are 1/FPR at the efficiency in the header.",
)
TOP = Benchmark(
    "Top-tagging landscape",
    frozenset({"QCD", "top"}),
    "QCD",
    (("top", 0.5), ("top", 0.3)),
    (
        Row("ParticleNet", 0.940, 0.9858, (397, 1615)),
        Row("plain transformer", 0.9393, 0.9855, (389, 1613)),
        Row("ParT", 0.940, 0.9858, (413, 1602)),
        Row("LorentzNet", 0.942, 0.9868, (498, 2195)),
        Row("PELICAN", 0.9426, 0.9870, (None, 2250)),
        Row("L-GATr", 0.9423, 0.9870, (540, 2240)),
        Row("ParT, JetClass fine-tuned", 0.944, 0.9877, (691, 2766)),
        Row("OmniLearn, fine-tuned", 0.942, 0.9872, (568, 2647)),
        Row("L-GATr, JetClass fine-tuned", 0.9446, 0.9879, (651, 2894)),
        Row("OmniLearned-L, fine-tuned", 0.944, 0.9880, (688, 3486)),
    ),
    "Published rows are of the 404,000 test jets of the landscape set.",
)
QUARK_GLUON = Benchmark(
    "Quark-gluon",
    frozenset({"gluon", "quark"}),
    "gluon",
    (("quark", 0.5), ("quark", 0.3)),
    (
        Row("ParticleNet (ideal)", 0.840, 0.9116, (39.8, 98.6)),
        Row("PCT", 0.841, 0.9140, (43.2, 118.0)),
        Row("LorentzNet", 0.844, 0.9156, (42.4, 110.2)),
        Row("ParT (exp)", 0.840, 0.9121, (41.3, 101.2)),
        Row("ParT, JetClass fine-tuned (exp)", 0.843, 0.9151, (42.4, 107.9)),
        Row("ParT (full)", 0.849, 0.9203, (47.9, 129.5)),
        Row("ParT, JetClass fine-tuned (full)", 0.852, 0.9230, (50.6, 138.7)),
    ),
    "Published rows are of the 200,000 test jets of the quark-gluon set; exp: species as an experiment tells them.",
)
BENCHMARKS = (JETCLASS, TOP, QUARK_GLUON)


def benchmark_of(classes: tuple[str, ...]) -> Benchmark | None:
    """The public table whose classes these are, if any."""
    return next((benchmark for benchmark in BENCHMARKS if benchmark.classes == set(classes)), None)
