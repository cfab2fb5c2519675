"""What was here is in `glm_scale.checkpoint`."""
