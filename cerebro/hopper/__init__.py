"""The method: model hopper parallelism as a pure state machine.

Nothing in this package reads a clock, opens a socket or a file, or draws from a global random
generator: events go in, actions come out.

scheduler       the state machine
attempt_states  the states of an attempt, and a table of what can happen to it
entries         what the machine keeps of models, workers, attempts and troubled units
events          the events that it is told, and the actions that it answers with
units           the nouns: training units, attempts, failures, positions of models
holdings        which worker may read which partition
placement       which of the units that may run a free worker gets
retention       which saved versions of a model are still needed
metrics         an epoch's metrics from its units' metrics
values          when two values of a configuration are the same
bitset          sets of small numbers as the bits of an integer
simulator       a cluster without hardware
"""
