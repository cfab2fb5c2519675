"""How fast training is beside a plain transformer (`glm-scale bench train`), how fast decoding is (`bench decode`), and
figures of what kernels take."""
