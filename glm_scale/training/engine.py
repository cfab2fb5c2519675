"""One optimizer step over DeepSpeed: the same path for CPU and GPU, fp32 and bf16, ZeRO 0 to 3."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from glm_scale.model import LanguageModel
from glm_scale.parallel.mesh import Mesh
from glm_scale.training.bf16_gradients import handle_gradients_together
from glm_scale.training.clock import Clock
from glm_scale.training.config import TrainingConfig
from glm_scale.training.host import HostRead
from glm_scale.training.matrix_exchange import Exchange
from glm_scale.training.micro_batch import DeviceBatch, MicroBatch
from glm_scale.training.muon import Muon
from glm_scale.training.optimizer import build_optimizer
from glm_scale.training.profiling.trace import BACKWARD, FORWARD, OPTIMIZER
from glm_scale.training.statistics import StepNorms, mixing_statistics
from glm_scale.training.zero_hooks import run_hooks_between_graphs
from glm_scale.training.zero_state import LogicalState

__all__ = ["Engine", "Limits", "StepResult"]

_LARGEST_BUCKET = 200_000_000


@dataclass(frozen=True)
class Limits:
    """What the loss and the gradient norm of a step must not exceed."""

    loss: float
    grad_norm: float


@dataclass(frozen=True)
class StepResult:
    """`loss`: mean over all valid tokens of the accumulated batch, in nats. `grad_norm`: before clipping; not finite
    where the loss was refused.

    `applied` is False where loss or gradient was not finite or over its limit: weights and moments are as before the
    step. `spike` says what was over which limit; empty if it was not for that. `peak_bytes`: the most memory of the GPU
    that tensors had at once so far; 0 on a CPU.
    """

    loss: float
    grad_norm: float
    applied: bool
    spike: str = ""
    peak_bytes: int = 0


def _nothing() -> None:
    pass


class Engine:
    """A model with its optimizer under DeepSpeed, stepped by whole accumulated batches.

    `model(tokens, document_starts=…, labels=…)` must return the *sum* of the token losses. The process group has to run
    (`distributed.start`). `accumulation` is the number of micro-batches of every step. `state` reads and writes weights
    and moments by parameter name. `mesh`: how several processes are laid out; without it they hold different
    sequences.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        accumulation: int,
        device: torch.device,
        mesh: Mesh | None = None,
    ) -> None:
        import deepspeed

        self.config = config
        self.device = device
        guarded = config.zero_stage == 0
        tensor = mesh.tensor if mesh else None
        optimizer = build_optimizer(model, config.optimizer, guarded=guarded, fused=True, tensor=tensor)
        self.deepspeed, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=_deepspeed_config(model, config, accumulation),
            mpu=mesh.mpu() if mesh else None,
            dist_init_required=False,
        )
        if config.zero_stage == 3 and config.compiles(device.type):
            run_hooks_between_graphs(model)
        self._replica_group = mesh.replica_group if mesh else None
        handle_gradients_together(self.deepspeed, self._replica_group, whole=tensor is None)
        self._replicas = torch.distributed.get_world_size(self._replica_group)
        replica = torch.distributed.get_rank(self._replica_group)
        self.state = LogicalState(self.deepspeed, tensor, (replica, self._replicas))
        optimizer.norms = self._norms = StepNorms(self.state.shapes(), self.state.owned_runs, device)
        if config.optimizer.kind == "muon":
            optimizer.muon = self._muon(config.optimizer.momentum)
        self._accumulation = accumulation
        self._limits: Limits | None = None
        self._refused: bool | None = None
        self._norm_read: HostRead | None = None
        optimizer.refuses = self._norm_is_refused

    def _muon(self, momentum: float | None) -> Muon:
        group = torch.distributed.group.WORLD if torch.distributed.get_world_size() > 1 else None
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        return Muon(self.state.hidden_steps(), Exchange(group, dtype, self.device), momentum)

    def close(self) -> None:
        """Let go of model and optimizer, which else stay for as long as this process lives: DeepSpeed's hooks on
        gradients, and what it ties to parameters, are circles through autograd that no garbage collector sees. Nothing
        else can be done with the engine."""
        parameters = list(self.model.parameters())
        self.deepspeed.destroy()
        for parameter in parameters:
            parameter.__dict__.clear()

    @property
    def model(self) -> nn.Module:
        """The model itself, for what needs no gradient; its weights are in the training precision."""
        return self.deepspeed.module

    def upload(self, batch: MicroBatch | DeviceBatch) -> DeviceBatch:
        """A batch on the device, if it is not there already. Waits for nothing that the device has to do."""
        return (
            batch
            if isinstance(batch, DeviceBatch)
            else DeviceBatch.of(batch, self.device, packed=self.device.type == "cuda")
        )

    def forward(self, batch: MicroBatch | DeviceBatch) -> Tensor:
        """Sum of the token losses of a batch in nats, fp32 scalar on the device."""
        batch = self.upload(batch)
        with record_function(FORWARD):
            return self.deepspeed(batch.tokens, **batch.keywords())

    @torch.no_grad()
    def token_losses(self, batch: MicroBatch) -> Tensor:
        """The losses themselves, fp32 [B, T] on the device, 0 where nothing is counted; for what needs no gradient."""
        batch = self.upload(batch)
        return self.deepspeed(batch.tokens, **batch.keywords(), reduction="none")

    @torch.no_grad()
    def token_scores(self, batch: MicroBatch) -> Tensor:
        """Of every label its log-likelihood and whether it is the likeliest token, as `model.head.token_scores`: fp32
        [2, B, T] on the device."""
        batch = self.upload(batch)
        return self.deepspeed(batch.tokens, **batch.keywords(), reduction="scored")

    def statistics(self, batch: MicroBatch | DeviceBatch) -> dict[str, float]:
        """Norms of the step that was watched, and how mixers weigh what they read of `batch`, as `statistics` says.
        Collective."""
        norms = self._norms.read()
        model = self.model
        return norms | (mixing_statistics(model, self.upload(batch)) if isinstance(model, LanguageModel) else {})

    def step(
        self,
        batches: Sequence[MicroBatch | DeviceBatch],
        learning_rate: float,
        clock: Clock | None = None,
        limits: Limits | None = None,
        meanwhile: Callable[[], None] = _nothing,
        watched: bool = False,
    ) -> StepResult:
        """One optimizer step on the mean loss over all valid tokens of `batches` (and of every rank).

        The labels of the whole step are counted first, so each micro-batch weighs by its valid tokens and the
        gradient is that of one large batch however it is cut. A step over `limits` is not applied. `meanwhile` is
        called once the device has all of forward and backward before it, and the host would wait for that. `watched`:
        `statistics` is to say something of it.
        """
        if len(batches) != self._accumulation:
            raise ValueError(f"a step takes {self._accumulation} micro-batches, got {len(batches)}")
        clock = clock or Clock()
        self._set_learning_rate(learning_rate)
        if watched:
            self._norms.arm()
        self._limits, self._refused, self._norm_read = limits, None, None
        with clock.phase("forward_backward"):
            uploaded = [self.upload(batch) for batch in batches]
            weight = self._weight(uploaded)
        total = torch.zeros((), device=self.device)
        loss_read: HostRead | None = None
        for index, batch in enumerate(uploaded):
            with clock.phase("forward_backward"):
                loss = self.forward(batch) * weight
                total += loss.detach()
                if index == len(batches) - 1:
                    loss = loss * self._poison(total)
                with record_function(BACKWARD):
                    self.deepspeed.backward(loss, scale_wrt_gas=False)
                if index == len(batches) - 1:
                    loss_read = HostRead(self._mean(total))
            if index == len(batches) - 1:
                with clock.phase("data"):
                    meanwhile()
            with clock.phase("optimizer"), record_function(OPTIMIZER):
                self.deepspeed.step()
        with clock.phase("optimizer"):
            assert loss_read is not None
            return self._result(float(loss_read))

    def _weight(self, batches: Sequence[DeviceBatch]) -> Tensor | float:
        """What turns the sum of a micro-batch's losses into its part of the mean over the step."""
        valid = self.sum_over_replicas(sum(batch.counted for batch in batches))
        # DeepSpeed averages gradients over replicas; the factor turns that average into the sum.
        if self._replicas == 1:
            return 1 / max(int(valid), 1)
        # On the device, so that the host does not wait for the other ranks.
        return (self._replicas / valid.clamp(min=1).double()).float()

    def _result(self, loss: float) -> StepResult:
        norm = float(self._norm_read if self._norm_read is not None else self.deepspeed.get_global_grad_norm())
        if self.config.spikes is not None and torch.distributed.get_world_size() > 1:
            # Sums of another order could differ in the last bit, and so could what ranks conclude from them later.
            numbers = torch.tensor([loss, norm], dtype=torch.float64, device=self.device)
            torch.distributed.broadcast(numbers, src=0)
            loss, norm = numbers.tolist()
        applied = bool(self.deepspeed.was_step_applied())
        spike = "" if applied else self._spike(loss, norm)
        peak = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0
        return StepResult(loss, norm, applied, spike, peak)

    def _spike(self, loss: float, norm: float) -> str:
        """What was over which limit in a step that was refused; empty if it was refused for something else."""
        limits = self._limits
        if limits is not None and math.isfinite(loss) and loss > limits.loss:
            return f"loss {loss:.4g} exceeds {limits.loss:.4g}"
        # A step refused for any other reason leaves a norm that is not finite.
        return f"gradient norm {norm:.4g} exceeds {limits.grad_norm:.4g}" if limits and math.isfinite(norm) else ""

    def _mean(self, total: Tensor) -> Tensor:
        """The mean loss of the step out of every rank's part in it. Collective."""
        return self.sum_over_replicas(total) / self._replicas

    def _poison(self, total: Tensor) -> Tensor:
        """1 where the loss of the step is good, NaN where it is not finite or over its limit.

        A loss can be infinite with finite gradients (a saturated token, say). Multiplied into the last micro-batch this
        makes the gradient NaN in exactly that case, so the one check of the gradient norm that every ZeRO stage makes
        before it touches a weight covers the loss as well, on every rank, without waiting for the device.
        """
        good = torch.isfinite(total)
        if self._limits is not None:
            good &= self._mean(total) <= self._limits.loss
        return torch.where(good, 1.0, torch.nan)

    def _norm_is_refused(self) -> bool:
        """Whether the gradient norm of this step is over its limit: decided once a step, by all ranks together."""
        if self._norm_read is None:
            self._norm_read = HostRead(torch.as_tensor(self.deepspeed.optimizer._global_grad_norm))
        if self._limits is None:
            return False
        if self._refused is None:
            optimizer = self.deepspeed.optimizer
            over = torch.tensor(float(optimizer._global_grad_norm) > self._limits.grad_norm, device=self.device).int()
            if torch.distributed.get_world_size() > 1:
                # If one rank stepped and another did not, their weights would drift apart without a word.
                torch.distributed.all_reduce(over, torch.distributed.ReduceOp.MAX)
            self._refused = bool(over)
            # DeepSpeed reads this when it is through: the step counts as skipped.
            optimizer.overflow = optimizer.overflow or self._refused
        return self._refused

    def _set_learning_rate(self, learning_rate: float) -> None:
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]

    def sum_over_replicas(self, value: Tensor | int) -> Tensor:
        """The sum over data × sequence ranks, which hold different tokens: collective."""
        total = torch.as_tensor(value)
        if self._replicas > 1:
            total = total.to(self.device, copy=True)
            torch.distributed.all_reduce(total, group=self._replica_group)
        return total


def _deepspeed_config(model: nn.Module, config: TrainingConfig, accumulation: int) -> dict[str, Any]:
    # The default of 5e8 elements is allocated even for a model of a million. Buckets have to be even.
    parameters = sum(parameter.numel() for parameter in model.parameters())
    bucket = min(parameters + parameters % 2, _LARGEST_BUCKET)
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": accumulation,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        # Explicit, because DeepSpeed clips at 1.0 if it is left out. Without ZeRO, GuardedAdamW clips.
        "gradient_clipping": 0.0 if config.zero_stage == 0 else config.optimizer.clip or 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    if config.precision == "bf16":
        settings["bf16"] = {"enabled": True, "check_grad_overflow": True}
        # Many small bf16 gradients added in bf16 lose most of their digits.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
