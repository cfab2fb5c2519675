"""From text to packed rows of tokens. Knows no model."""
