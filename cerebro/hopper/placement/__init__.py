"""Placement: which of the units that may run a free worker gets.

base                   what a policy is told and asked
policies               policies by name
randomized             the paper's: the first that fits in a shuffled queue
oldest                 the model that started its epoch first
critical               the default: the most loaded worker and the longest chain of units first
board, rows, matching  what `critical` knows of models and workers, and how it pairs them
estimates, workload    how long units take, and what is left for whom
planning               makes plans of all that is left; pays where partitions are replicated
planner                decides when `critical` makes a plan, and follows it
"""
