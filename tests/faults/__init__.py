import pytest

pytest.register_assert_rewrite("tests.faults.runs", "tests.faults.trials")
