"""A run from its configuration to its end: checks, process group, training, going on."""
