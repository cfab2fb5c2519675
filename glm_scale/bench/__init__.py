"""How fast training is beside a plain transformer (`glm-scale bench train`), and figures of what kernels take."""
