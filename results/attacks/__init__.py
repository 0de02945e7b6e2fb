"""What an observer of the messages could learn: attacks on the models that a run has kept.

All of them but two work on a table of losses, made once and model by model (`losstable`), so a
run of many nodes takes the memory of a few models. One file an attack; `scores` has the measures.
"""
