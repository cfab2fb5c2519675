"""Synthetic tasks: what a structure can learn where the answer is known, on models that train in a minute.

task, copying, recall, multihop   the tasks; `registry` has them by their spellings
model, stack, optimizer           small models, and several of them as one
setting, training                 how they are trained and asked
results, running                  a folder of results, and filling it
paper, report, figures            what they come to

Knows the model, the settings of optimizer and schedule and the look of figures; no run and no data set.
"""
