"""What single operators, copies and exchanges take on the GPU of this machine (`glm-scale bench calibrate`)."""
