"""Surroundings that break programs: what a user's machine, shell or site does that a laptop of a developer does not."""
