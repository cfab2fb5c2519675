"""The README of an exported model."""

from __future__ import annotations

from glm_scale.checkpoint.reading import Checkpoint
from glm_scale.config import RunConfig
from glm_scale.model import LanguageModel

__all__ = ["model_card"]

_TEXT = """\
---
library_name: transformers
pipeline_tag: text-generation
tags: [glm-scale, structured-recurrence]
---

# {name}

A language model whose token mixers are structured generalized linear recurrences
([arXiv 2605.31367](https://arxiv.org/abs/2605.31367)), trained with glm-scale.

| | |
|---|---|
| token mixers, repeated through the depth | {mixers} |
| layers, width, heads of | {layers}, {width}, {heads} × {head_size} |
| hidden units of the MLP | {mlp} |
| parameters, of them outside the embeddings | {parameters:,}, {inner:,} |
| vocabulary | {vocabulary:,} |
| rows that a layer remembers after {length:,} tokens | {rows} |
| training | {tokens:,} tokens in sequences of {length:,}, {step:,} steps |
| validation loss | {loss} |

## Use

It needs torch and transformers, and nothing else; where `glm_kernels` is installed, whole sequences are computed by it.

```python
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # where this file lies
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
inputs = tokenizer(["Once", "The state of the union is"], return_tensors="pt", padding=True)
inputs.pop("token_type_ids", None)
texts = model.generate(**inputs, max_new_tokens=50)
print(tokenizer.batch_decode(texts, skip_special_tokens=True))
```

Every text begins with the beginning token, which the tokenizer puts there. Padding goes in front of a text or behind
it; to generate, in front. The cache of a recurrence has the rows that later tokens may still read, as the table says,
and no more; so it cannot be cropped, and assisted decoding is refused.

It is a model of text as it was trained on, without any further training to follow instructions or to refuse them.

The folder `glm_scale/` is what `glm-scale checkpoint import`, `generate` and `evaluate` read beside the weights.
"""


def model_card(config: RunConfig, checkpoint: Checkpoint) -> str:
    """What strangers are told of the model of a checkpoint, in Markdown."""
    import torch

    with torch.device("meta"):
        model = LanguageModel(config.model)
    sizes, length, state = config.model, config.data.sequence_length, checkpoint.state
    rows = ", ".join(
        f"`{mixer}` {'a state' if held is None else f'{held:,}'}" for mixer, held in model.cache_rows(length).items()
    )
    loss = state.validation_loss
    return _TEXT.format(
        name=config.name,
        mixers=", ".join(f"`{mixer}`" for mixer in sizes.mixers),
        layers=sizes.layers,
        width=sizes.width,
        heads=sizes.heads,
        head_size=sizes.head_size,
        mlp=sizes.mlp_size,
        parameters=model.parameter_count(),
        inner=model.parameter_count(embedding=False),
        vocabulary=sizes.vocab_size,
        length=length,
        rows=rows,
        tokens=state.counters.tokens,
        step=checkpoint.step,
        loss="not measured" if loss is None else f"{loss:.4f} nats per token",
    )
