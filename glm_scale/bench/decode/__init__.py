"""How fast decoding is (`glm-scale bench decode`).

cases       what is measured: a mixer, a number of documents, a context
model       weights drawn where they are used
session     one case after the other on a device: checked, then measured
worker      a process that does so
running     such processes, watched from outside
results     the file that grows, and the table
run         from what a user asks for to the table
"""
