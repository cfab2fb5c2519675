"""The commands `submit`, `status`, `logs`, `cancel`, `resume`, `doctor`, beside those of `glm_scale.cli`."""
