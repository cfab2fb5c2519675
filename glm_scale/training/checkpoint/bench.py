"""`python -m glm_scale.checkpoint.bench`, by the path that it had before; for the one release after 0.1."""

import sys

from glm_scale.checkpoint.bench import main

if __name__ == "__main__":
    sys.exit(main())
