"""GLM-scale language models for `transformers`: pre-norm blocks of a token mixer and a gated MLP.

Exported models carry this file and those that it imports; they need torch and `transformers` only.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .cache_glm_scale import GlmScaleCache, GlmScaleCacheLayer
from .configuration_glm_scale import GlmScaleConfig
from .mixing_glm_scale import Columns, Mixer
from .patterns_glm_scale import Pattern  # noqa: F401 (transformers 4 copies only what this file itself imports)

# What `past_key_values` is called, which it was until transformers 5.
_CACHE = "cache" if "cache" in {field.name for field in fields(CausalLMOutputWithPast)} else "past_key_values"


class GlmScaleRMSNorm(nn.Module):
    """x divided by its root mean square, times a weight (arXiv 1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class GlmScaleConv(nn.Module):
    """y_i = x_i + Σ_{s < width} weight_s · x_{i−s}: a short causal depthwise convolution with a residual."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, channels))

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """x `[B, T, D]`, zero where there is padding, and the width − 1 tokens before it, which are returned of the
        next ones."""
        width, length = len(self.weight), x.shape[1]
        if before is None:
            before = x.new_zeros(len(x), width - 1, x.shape[2])
        rows = torch.cat([before, x], 1)
        y = x + sum(self.weight[shift] * rows.narrow(1, width - 1 - shift, length) for shift in range(width))
        return y, rows[:, length:]


class GlmScaleMLP(nn.Module):
    """SwiGLU (arXiv 2002.05202)."""

    def __init__(self, config: GlmScaleConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class GlmScaleLayer(nn.Module):
    """x ← x + mixer(conv(norm x)); x ← x + mlp(norm x)."""

    def __init__(self, config: GlmScaleConfig, spelling: str) -> None:
        super().__init__()
        self.mixer_norm = GlmScaleRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.conv = GlmScaleConv(config.hidden_size, config.conv_width) if config.conv_width else None
        self.mixer = Mixer(config, spelling)
        self.mlp_norm = GlmScaleRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GlmScaleMLP(config)

    def forward(self, x: Tensor, columns: Columns, memory: GlmScaleCacheLayer | None = None) -> Tensor:
        mixed = self.mixer_norm(x)
        if self.conv is not None:
            if columns.padded:
                mixed = mixed * (columns.at >= 0)[..., None]
            mixed, conv = self.conv(mixed, memory.conv if memory else None)
            if memory:
                memory.conv = conv
        before = memory.memory if memory else [None] * len(self.mixer.stages)
        mixed, after = self.mixer(mixed, columns, before)
        if memory:
            memory.memory = after
            memory.columns += x.shape[1]
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x))


class GlmScalePreTrainedModel(PreTrainedModel):
    """What `transformers` wants to know of the models."""

    config_class = GlmScaleConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GlmScaleLayer"]  # noqa: RUF012 (as transformers declares it)
    _supports_sdpa = True
    # Rows are forgotten, so text cannot be taken back, as speculative decoding would.
    _is_stateful = True


class GlmScaleModel(GlmScalePreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: GlmScaleConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        mixers = [config.mixers[layer % len(config.mixers)] for layer in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(GlmScaleLayer(config, mixer) for mixer in mixers)
        self.norm = GlmScaleRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: GlmScaleCache | None = None,
        cache: GlmScaleCache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        **others: Any,
    ) -> BaseModelOutputWithPast:
        """input_ids int64 `[B, T]`, or their embeddings; the cache holds what came before them, and is written to.

        attention_mask: `[B, T]`, or `[B, tokens before + T]`, 0 where there is padding: in front of a sequence or
        behind it, not within. Raises ValueError for other masks, and for positions that are not those of the mask.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        x = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        cache = cache if cache is not None else past_key_values
        if cache is None and (self.config.use_cache and not self.training if use_cache is None else use_cache):
            cache = GlmScaleCache(self.config)
        columns = self._columns(x, attention_mask, cache)
        if position_ids is not None and not _same_positions(position_ids, columns.at):
            raise ValueError("position_ids differ from those of attention_mask; packed documents are not supported")
        states = []
        for number, layer in enumerate(self.layers):
            states.append(x)
            if self.gradient_checkpointing and self.training and cache is None:
                x = self._gradient_checkpointing_func(layer.__call__, x, columns)
            else:
                x = layer(x, columns, cache.layers[number] if cache is not None else None)
        if cache is not None:
            cache.seen = columns.seen
        x = self.norm(x)
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        hidden = (*states, x) if wanted else None
        return BaseModelOutputWithPast(last_hidden_state=x, hidden_states=hidden, **{_CACHE: cache})

    def _columns(self, x: Tensor, mask: Tensor | None, cache: GlmScaleCache | None) -> Columns:
        batch, length = x.shape[:2]
        before = cache.get_seq_length() if cache is not None else 0
        real = torch.ones(batch, length, dtype=torch.bool, device=x.device)
        if mask is not None:
            if mask.ndim != 2 or mask.shape[1] not in (length, before + length):
                raise ValueError(
                    f"attention_mask is {list(mask.shape)}; it has to be [{batch}, {before + length}], 0 for padding"
                )
            if bool((mask.ne(0).int().diff(dim=1) == 1).sum(1).gt(1 - mask[:, 0].ne(0).int()).any()):
                raise ValueError("attention_mask has padding within a sequence; it may be in front or behind only")
            real = mask[:, -length:].ne(0).to(x.device)
        seen = torch.zeros(batch, dtype=torch.int64, device=x.device)
        if cache is not None and cache.seen is not None:
            seen = cache.seen.to(x.device)
        at = (seen[:, None] + real.cumsum(1) - 1).where(real, -1)
        starts = None
        if not bool(real.all()):
            first = real.int().argmax(1, keepdim=True)
            starts = first.where(torch.arange(length, device=x.device) >= first, 0).int()
        size, base = self.config.head_dim, self.config.rotary_base
        powers = torch.arange(0, size, 2, device=x.device, dtype=torch.float32) / size
        angles = at.float()[..., None, None] * base**-powers
        return Columns(at, seen + real.sum(1), before + length, starts, angles.cos(), angles.sin())


class GlmScaleForCausalLM(GlmScalePreTrainedModel, GenerationMixin):
    """Tokens to logits of the next ones, and `generate`."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012

    def __init__(self, config: GlmScaleConfig) -> None:
        super().__init__(config)
        self.model = GlmScaleModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: GlmScaleCache | None = None,
        cache: GlmScaleCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **others: Any,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits `[B, T, vocab]`, or of the last `logits_to_keep` columns; with labels `[B, T]`, −100 where nothing is
        predicted, also the mean loss in nats of every label after the first. The rest is as in `GlmScaleModel`."""
        output = self.model(
            input_ids, attention_mask, position_ids, past_key_values, cache, inputs_embeds, use_cache,
            output_hidden_states,
        )  # fmt: skip
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else logits_to_keep
        states = output.last_hidden_state
        logits = self.lm_head(states if isinstance(kept, int) else states[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others)
        told = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=output.hidden_states, **{_CACHE: getattr(output, _CACHE)}
        )
        return told.to_tuple() if return_dict is False else told

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        past_key_values: GlmScaleCache | None = None,
        cache: GlmScaleCache | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """What `forward` needs for the columns that the cache has not seen."""
        cache = cache if cache is not None else past_key_values
        seen = cache.get_seq_length() if cache is not None else 0
        inputs: dict[str, Any] = {"attention_mask": attention_mask, _CACHE: cache}
        if inputs_embeds is not None and not seen:
            inputs["inputs_embeds"] = inputs_embeds
        else:
            total = attention_mask.shape[1] if attention_mask is not None else input_ids.shape[1]
            inputs["input_ids"] = input_ids[:, -(total - seen) :] if total > seen else input_ids
        return inputs | {name: others[name] for name in ("use_cache", "logits_to_keep") if name in others}

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """The model makes its cache itself."""
        return False


def _same_positions(given: Tensor, found: Tensor) -> bool:
    return bool(((given.to(found.device) == found) | (found < 0)).all())
