"""What MLflow makes of comparisons."""

from tests.tracking.conftest import empty_store

__all__ = ["empty_store"]
