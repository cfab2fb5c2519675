"""Scaling laws L(N, D) = E + A/N^α + B/D^β of several mixers: fits, their uncertainty, and what follows from them.

Pure numerics on points (mixer, parameters, tokens, loss): knows no run directories, trackers or figures, and imports
numpy and scipy alone. What points do not determine is a `Refusal` with the reason, in place of a result.
"""

from glm_scale.scaling.laws.adequacy import HeldOut, LackOfFit, lack_of_fit, leave_largest_out
from glm_scale.scaling.laws.bootstrap import Bootstrap, Interval, bootstrap
from glm_scale.scaling.laws.fit import Factors, Fit, factors, fit_joint, fit_separate
from glm_scale.scaling.laws.law import Law
from glm_scale.scaling.laws.points import Point
from glm_scale.scaling.laws.refusal import Cause, Refusal

__all__ = [
    "Bootstrap",
    "Cause",
    "Factors",
    "Fit",
    "HeldOut",
    "Interval",
    "LackOfFit",
    "Law",
    "Point",
    "Refusal",
    "bootstrap",
    "factors",
    "fit_joint",
    "fit_separate",
    "lack_of_fit",
    "leave_largest_out",
]
