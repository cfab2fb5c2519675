"""`python -m glm_kernels.bench`."""

from glm_kernels.bench.command import main

raise SystemExit(main())
