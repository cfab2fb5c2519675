"""Building blocks that mixers and the model share. They know neither; imports go layers ← mixers ← model."""
