"""Samples of the machine's load, written into the run's metrics as records of kind "system".

They go through metrics.jsonl like everything else, so they survive a dead MLflow server and are replayed.
(MLflow's own monitor stops for good at the first request that fails.)
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading

import psutil

from glm_scale.tracking.metrics_log import MetricsLog

_logger = logging.getLogger(__name__)


class SystemMonitor:
    """A daemon thread that appends a sample every `interval` seconds."""

    def __init__(self, log: MetricsLog, interval: float) -> None:
        self._log = log
        self._interval = interval
        self._stop = threading.Event()
        self._process = psutil.Process()
        self._thread = threading.Thread(target=self._sample_until_stopped, name="system-metrics", daemon=True)

    def start(self) -> None:
        """Begin to sample, in a thread."""
        # The first call only sets the start of the interval that the next one measures.
        psutil.cpu_percent()
        self._process.cpu_percent()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def _sample_until_stopped(self) -> None:
        while not self._stop.wait(self._interval):
            try:
                self._log.append_here("system", **self.sample())
            except Exception as error:
                _logger.warning("system metrics stopped: %s", error)
                return

    def sample(self) -> dict[str, float]:
        """CPU in percent (of the machine; of one core for the process), memory in GiB, GPUs where CUDA is in use."""
        memory = psutil.virtual_memory()
        gib = 1 << 30
        return {
            "cpu_percent": psutil.cpu_percent(),
            "process_cpu_percent": self._process.cpu_percent(),
            "memory_percent": memory.percent,
            "process_memory_gib": self._process.memory_info().rss / gib,
        } | _gpu_sample()


def _gpu_sample() -> dict[str, float]:
    """Memory in GiB of the current device, and its utilisation if NVML's Python bindings are installed."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    gib = 1 << 30
    free, total = torch.cuda.mem_get_info()
    values = {
        "gpu_memory_used_gib": (total - free) / gib,
        "gpu_memory_allocated_gib": torch.cuda.memory_allocated() / gib,
        "gpu_memory_peak_gib": torch.cuda.max_memory_allocated() / gib,
    }
    with contextlib.suppress(ModuleNotFoundError, RuntimeError):
        values["gpu_percent"] = float(torch.cuda.utilization())
    return values
