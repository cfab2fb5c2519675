"""Text to tokens and back, by SentencePiece or by Hugging Face's `tokenizers`, behind one interface.

contract         what everything else sees of a tokenizer
sentence_piece   models of SentencePiece, which give back every text exactly
hugging_face     tokenizer.json, the format of Hugging Face's `tokenizers`
special_tokens   which of its tokens begin and end a document
spelling         the bytes that its tokens stand for, and whether it promises to give back what it was given
loading          a tokenizer from a file or a folder
training         of byte-pair encodings by SentencePiece
"""

from glm_data.tokenizers.contract import Tokenizer
from glm_data.tokenizers.loading import load_tokenizer, tokenizer_files

__all__ = ["Tokenizer", "load_tokenizer", "tokenizer_files"]
