"""Language models whose token mixers are structured generalized linear recurrences.

This package holds the model, its training, tracking, the scaling science and the command line. It may import
`glm_data` and `glm_kernels`; nothing below imports it.
"""

__version__ = "0.1.0"
