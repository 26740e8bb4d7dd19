"""Placement: which of the units that may run a free worker gets.

base                   what a policy is told and asked
registry               policies by name
randomized             the paper's: the first that fits in a shuffled queue
oldest                 the model that started its epoch first
critical_path          the default for grids: most loaded worker, longest chain of units first
board, rows, matching  what `critical_path` knows of models and workers, and how it pairs them
estimates, workload    how long units take, and what is left for whom
planning               makes plans of all that is left; pays where partitions are replicated
planner                decides when `critical_path` makes a plan, and follows it
"""
