"""Published results of shower generators, to put beside ours where geometry and protocol are the same.

CaloChallenge (arXiv:2410.21611, the organisers' result files): areas under the ROC curve of the network on low-level
and high-level inputs and of the 3-D ResNet, FPD and KPD times 1,000, mean log-posterior among all submissions. Geant4
is the second public file against the first. ILD: CaloClouds II (arXiv:2309.05704, the notebooks of its repository).
"""

from __future__ import annotations

from dataclasses import dataclass

Number = tuple[float, float]  # value and error


@dataclass(frozen=True)
class Submission:
    """One generator of CaloChallenge; None where a value was not published.

    Attributes:
        name: as submitted.
        low, high, resnet: areas under the ROC curve.
        fpd, kpd: times 1,000.
        log_posterior: mean over Geant4 showers.
    """

    name: str
    low: float | None
    high: float | None
    resnet: float | None
    fpd: Number
    kpd: Number
    log_posterior: float | None


CALOCHALLENGE: dict[str, tuple[Submission, ...]] = {
    "1-photons": (
        Submission("GEANT4", 0.499, 0.499, None, (0.12, 0.05), (0.028, 0.059), None),
        Submission("CaloScore", 0.751, 0.552, None, (0.44, 0.13), (0.001, 0.058), -3.31),
        Submission("CaloDiffusion", 0.635, 0.536, None, (0.65, 0.13), (-0.01, 0.051), -2.19),
        Submission("CaloScore distilled", 0.816, 0.641, None, (1.12, 0.13), (0.032, 0.05), -4.2),
        Submission("CaloScore single-shot", 0.866, 0.726, None, (3.09, 0.13), (0.221, 0.054), -5.44),
        Submission("CaloFlow teacher", 0.733, 0.636, None, (3.11, 0.09), (0.082, 0.068), -2.79),
        Submission("CaloFlow student", 0.761, 0.667, None, (3.15, 0.11), (0.09, 0.072), -2.98),
        Submission("CaloINN", 0.626, 0.638, None, (3.9, 0.17), (0.233, 0.216), -2.2),
        Submission("CaloVAE+INN", 0.889, 0.966, None, (14.59, 0.17), (1.214, 0.054), -5.22),
        Submission("CaloGraph", 0.82, 0.672, None, (15.79, 0.26), (1.156, 0.237), -3.58),
        Submission("CaloShower3GAN", 0.928, 0.947, None, (20.51, 0.31), (1.156, 0.203), -6.79),
        Submission("CaloForest", 0.845, 0.924, None, (33.52, 0.55), (2.23, 0.313), -3.62),
        Submission("Calo-VQ", 0.998, 0.989, None, (35.95, 0.32), (2.405, 0.136), -17.91),
        Submission("CaloShower2GAN", 0.938, 0.942, None, (52.1, 0.35), (2.803, 0.495), -7.11),
        Submission("CaloMan", 1.0, 0.999, None, (141.38, 0.47), (11.106, 0.546), -30.35),
        Submission("BoloGAN", 0.927, 0.966, None, (142.44, 1.33), (11.627, 1.185), -9.76),
    ),
    "1-pions": (
        Submission("GEANT4", 0.609, 0.558, None, (0.51, 0.07), (-0.007, 0.036), None),
        Submission("CaloDiffusion", 0.68, 0.652, None, (2.77, 0.09), (0.089, 0.057), -2.32),
        Submission("CaloGraph", 0.811, 0.763, None, (22.32, 0.44), (0.85, 0.28), -3.48),
        Submission("CaloFlow teacher", 0.845, 0.797, None, (25.66, 0.3), (0.808, 0.092), -3.71),
        Submission("CaloFlow student", 0.884, 0.827, None, (25.69, 0.23), (0.994, 0.085), -4.56),
        Submission("CaloINN", 0.784, 0.732, None, (29.26, 0.21), (1.478, 0.245), -3.09),
        Submission("CaloVAE+INN", 0.853, 0.921, None, (83.0, 0.87), (4.324, 0.287), -4.06),
        Submission("CaloShowerGAN", 0.889, 0.922, None, (113.23, 0.67), (3.052, 0.107), -4.72),
        Submission("Calo-VQ", 0.958, 0.976, None, (126.99, 0.68), (6.268, 0.265), -8.6),
        Submission("CaloForest", 0.909, 0.965, None, (204.74, 1.64), (9.525, 0.926), -4.88),
        Submission("DNN CaloSim", 0.676, 0.819, None, (464.69, 2.25), (20.015, 1.003), -1.93),
        Submission("BoloGAN", 0.913, 0.969, None, (498.69, 2.95), (25.246, 0.975), -8.02),
        Submission("CaloMan", 0.999, 0.999, None, (524.43, 0.91), (31.164, 0.984), -25.95),
    ),
    "2": (
        Submission("GEANT4", 0.5, 0.499, 0.5, (10.78, 0.79), (-0.028, 0.021), None),
        Submission("CaloDREAM", 0.531, 0.521, 0.681, (24.65, 1.03), (0.023, 0.036), -2.41),
        Submission("CaloScore", 0.595, 0.666, 0.795, (112.48, 0.91), (0.149, 0.057), -2.84),
        Submission("CaloDiffusion", 0.577, 0.591, 0.68, (146.93, 0.87), (0.174, 0.042), -2.52),
        Submission("conv. L2LFlows", 0.708, 0.737, 0.941, (157.4, 0.97), (0.271, 0.09), -3.13),
        Submission("DeepTree", 0.963, 0.927, 0.999, (292.63, 2.93), (0.68, 0.129), -10.51),
        Submission("SuperCalo", 0.694, 0.757, 0.986, (300.82, 2.73), (0.556, 0.19), -2.82),
        Submission("iCaloFlow teacher", 0.763, 0.837, 0.97, (377.06, 1.9), (0.568, 0.138), -3.64),
        Submission("iCaloFlow student", 0.819, 0.886, 0.975, (449.26, 3.28), (1.041, 0.219), -4.26),
        Submission("CaloPointFlow", 0.863, 0.908, 0.999, (494.05, 1.79), (0.324, 0.039), -5.23),
        Submission("CaloScore single-shot", 0.747, 0.902, 0.973, (546.27, 1.94), (0.929, 0.068), -3.6),
        Submission("CaloScore distilled", 0.71, 0.891, 0.965, (638.85, 1.6), (1.013, 0.074), -3.42),
        Submission("CaloINN", 0.743, 0.865, 0.994, (732.83, 5.33), (2.821, 0.419), -3.2),
        Submission("MDMA", 0.942, 0.987, 1.0, (864.98, 5.15), (4.962, 0.273), -7.44),
        Submission("CaloLatent", 0.983, 0.995, 1.0, (962.98, 2.41), (2.879, 0.2), -11.67),
        Submission("Calo-VQ", 0.986, 0.994, 0.999, (1315.72, 7.03), (8.521, 0.504), -11.89),
        Submission("CaloDiT", 0.984, 0.912, 0.988, (1690.99, 6.76), (11.032, 0.427), -22.12),
        Submission("CaloVAE+INN", 0.907, 1.0, 0.993, (5443.43, 27.23), (45.609, 0.832), -6.41),
    ),
    "3": (
        Submission("GEANT4", 0.497, 0.5, 0.499, (8.76, 0.56), (-0.009, 0.047), None),
        Submission("CaloDREAM", 0.63, 0.524, 0.802, (20.75, 1.08), (0.01, 0.015), -2.23),
        Submission("CaloDiffusion", 0.561, 0.607, 0.656, (71.24, 1.92), (0.228, 0.098), -2.39),
        Submission("conv. L2LFlows", 0.588, 0.733, 0.919, (171.64, 1.8), (0.325, 0.152), -2.7),
        Submission("CaloScore single-shot", 0.807, 0.939, 0.995, (584.02, 2.93), (1.593, 0.138), -3.8),
        Submission("MDMA", 0.944, 0.987, 1.0, (588.6, 2.54), (1.671, 0.137), -9.84),
        Submission("CaloScore distilled", 0.776, 0.924, 0.994, (610.86, 4.02), (1.73, 0.249), -3.28),
        Submission("L2LFlows MAF", 0.72, 0.946, 1.0, (665.5, 1.69), (1.54, 0.183), -4.38),
        Submission("CaloPointFlow", 0.72, 0.945, 1.0, (670.75, 3.38), (2.023, 0.412), -3.69),
        Submission("iCaloFlow student", 0.891, 0.971, 1.0, (841.11, 5.14), (2.599, 0.23), -5.89),
        Submission("iCaloFlow teacher", 0.911, 0.962, 1.0, (897.59, 5.26), (2.86, 0.324), -6.76),
        Submission("Calo-VQ(norm)", 0.975, 0.994, 1.0, (930.85, 3.46), (3.994, 0.356), -9.6),
        Submission("CaloClouds", 0.865, 0.98, 1.0, (948.23, 4.63), (5.183, 0.702), -5.99),
        Submission("Calo-VQ", 0.996, 0.998, 1.0, (1193.91, 2.83), (5.684, 0.207), -19.82),
        Submission("CaloVAE+INN", 0.881, 1.0, 1.0, (11060.73, 13.99), (83.069, 0.726), -6.48),
        Submission("GEANT4 transformer", 0.886, 1.0, 1.0, (22947.32, 23.37), (241.038, 2.692), -12.07),
    ),
}

# Mean over layers of the separation powers of Geant4 against Geant4, by histogram: data sets 1 photons, 1 pions, 2, 3.
SEPARATION_FLOORS: dict[str, tuple[float, float, float, float]] = {
    "layer energy": (2.0e-4, 2.0e-4, 2.4e-4, 2.5e-4),
    "response": (4.0e-4, 4.0e-4, 4.4e-4, 5.3e-4),
    "voxel energy": (9.9e-7, 1.2e-5, 8.8e-7, 4.3e-7),
    "centre eta": (4.0e-4, 4.3e-4, 5.0e-4, 5.0e-4),
    "width eta": (4.0e-4, 4.2e-4, 4.9e-4, 4.7e-4),
    "centre r": (3.2e-4, 3.4e-4, 4.5e-4, 4.7e-4),
    "width r": (1.6e-4, 1.8e-4, 4.7e-4, 4.8e-4),
    "sparsity": (3.8e-5, 8.2e-5, 9.3e-5, 5.9e-5),
}

# W1 of the ILD set times 100, by row of ours.
ILD_COLUMNS = (
    *("occupancy", "sampling fraction", "cell energy", "energy in depth", "energy in rings"),
    *("centre x", "centre z", "centre depth"),
)
ILD: dict[str, tuple[Number, ...]] = {
    "Geant4 floor": ((0.7, 0.2), (0.8, 0.2), (0.9, 0.4), (0.7, 0.8), (0.7, 0.6), (0.9, 0.1), (1.1, 0.3), (0.9, 0.3)),
    "CaloClouds (DDPM)": (
        (2.5, 0.3),
        (11.4, 0.5),
        (15.9, 0.7),
        (2.0, 1.4),
        (38.8, 1.4),
        (4.0, 0.4),
        (8.7, 0.3),
        (1.4, 0.5),
    ),
    "CaloClouds II (EDM)": (
        (3.6, 0.5),
        (26.4, 0.4),
        (15.3, 0.6),
        (3.7, 1.6),
        (11.6, 1.5),
        (2.4, 0.4),
        (7.6, 0.2),
        (3.9, 0.4),
    ),
    "CaloClouds II (CM)": (
        (6.1, 0.7),
        (9.8, 0.5),
        (16.0, 0.7),
        (2.0, 1.4),
        (8.3, 1.9),
        (3.0, 0.4),
        (9.5, 0.6),
        (1.2, 0.5),
    ),
}
