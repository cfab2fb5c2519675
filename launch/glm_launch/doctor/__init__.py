"""Whether this machine can do what glm-scale asks of it: one finding a check, with the way out.

checks     all checks in their order, and how one that fails itself is told
findings   what a check returns
"""

from glm_launch.doctor.checks import CHECKS, examine
from glm_launch.doctor.findings import Asked, Finding

__all__ = ["CHECKS", "Asked", "Finding", "examine"]
