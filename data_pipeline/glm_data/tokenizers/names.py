"""How the files of a tokenizer are called, in data sets, checkpoints and exported models."""

MODEL_NAME = "tokenizer.model"
"""A model of SentencePiece."""

JSON_NAME = "tokenizer.json"
"""A tokenizer of Hugging Face's `tokenizers`."""

CONFIG_NAME = "tokenizer_config.json"
"""What `transformers` wants to know of the latter, its special tokens above all."""
