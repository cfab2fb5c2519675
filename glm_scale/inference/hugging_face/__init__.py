"""Models as Hugging Face's libraries have them: what is written for them, what is read of theirs.

sizes               how they call our sizes and mixers
export              a checkpoint as a folder that `transformers` loads
tokenizer           the files of its tokenizer
card                its README
importing           folders of theirs as models of ours
llama               how models shaped as Llama are called there
*_glm_scale         the model itself, for `transformers`: these files are copied and never imported here
"""
