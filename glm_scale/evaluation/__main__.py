"""lm-eval's own command, with our models: python -m glm_scale.evaluation --model glm-scale --model_args path=RUN …"""

from lm_eval.__main__ import cli_evaluate

import glm_scale.evaluation.harness  # noqa: F401  # registers the model

if __name__ == "__main__":
    cli_evaluate()
