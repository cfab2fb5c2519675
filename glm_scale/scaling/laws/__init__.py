"""Scaling laws L(N, D) = E + A/N^α + B/D^β of several mixers: fits, their uncertainty, and what follows from them.

Pure numerics on points (mixer, parameters, tokens, loss): knows no run directories, trackers or figures, and imports
numpy and scipy alone. What points do not determine is a `Refusal` with the reason, in place of a result.
"""

from glm_scale.scaling.laws.adequacy import HeldOut, LackOfFit, lack_of_fit, leave_largest_out
from glm_scale.scaling.laws.allocation import Allocation, cheapest, optimal
from glm_scale.scaling.laws.bootstrap import LEVEL, Band, Bootstrap, Interval, bootstrap
from glm_scale.scaling.laws.fit import Factors, Fit, factors, fit_joint, fit_separate
from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.multiplier import Multiplier, compute_multiplier, cost_multiplier, flops_ratio, reached
from glm_scale.scaling.laws.path import Path, PowerOfSize, compute_optimal
from glm_scale.scaling.laws.points import Point
from glm_scale.scaling.laws.refusal import Cause, Refusal

__all__ = [
    "LEVEL",
    "Allocation",
    "Band",
    "Bootstrap",
    "Cause",
    "Factors",
    "Fit",
    "HeldOut",
    "Interval",
    "LackOfFit",
    "Law",
    "Multiplier",
    "Path",
    "Point",
    "PowerOfSize",
    "Refusal",
    "bootstrap",
    "cheapest",
    "compute_multiplier",
    "compute_optimal",
    "cost_multiplier",
    "factors",
    "fit_joint",
    "fit_separate",
    "flops_ratio",
    "lack_of_fit",
    "leave_largest_out",
    "optimal",
    "reached",
]
