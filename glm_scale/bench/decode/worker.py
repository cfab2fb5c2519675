"""A process that measures cases of one mixer: `python -m glm_scale.bench.decode.worker JSON`.

It prints one JSON object a case, with what was measured, why it was refused, or its error. After an error of the device
nothing it says can be trusted: it ends, and what is left is another process's.
"""

from __future__ import annotations

import json
import sys
import traceback

import torch

from glm_kernels.bench.timing import copy_bandwidth
from glm_scale.bench.calls import DTYPES
from glm_scale.bench.decode.cases import Case, Setting, model_config
from glm_scale.bench.decode.model import random_model
from glm_scale.bench.decode.session import RefusedError, measure
from glm_scale.errors import UserError

__all__: list[str] = []


def main(argument: str) -> int:
    """The exit code."""
    asked = json.loads(argument)
    setting, cases = Setting(**asked["setting"]), [Case.parse(case) for case in asked["cases"]]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(model_config(cases[0].mixer, setting.size), device, DTYPES[setting.precision])
    bandwidth = copy_bandwidth(device.type)
    for case in cases:
        try:
            _say(case, measured=measure(case, model, setting, bandwidth).to_json())
        except (RefusedError, torch.OutOfMemoryError) as error:
            _say(case, refused=str(error))
        except UserError as error:
            _say(case, error=str(error))
        except Exception as error:
            traceback.print_exc()
            _say(case, error=f"{case}: {type(error).__name__}: {error}")
            return 1
    return 0


def _say(case: Case, **what: object) -> None:
    print(json.dumps({"case": str(case), **what}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
