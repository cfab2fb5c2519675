"""What a model can do: tasks of lm-eval, and recall at growing context.

scoring                 log-likelihoods of continuations, many at once; knows the model alone
harness, generating     our model as one of lm-eval
words, recall           two tasks of our own, made of words by a seed; `recall_task`: as lm-eval's
loading, measuring      tasks by their names or files, and what they come to
evaluating              of a trained model, as `glm-scale evaluate --tasks` does it
in_training             every so many steps of a run, on all of its ranks; `answering`: models that lm-eval asks there

lm-eval is an extra (`pip install 'glm-scale[eval]'`): what imports it is imported where tasks are asked for.
"""
