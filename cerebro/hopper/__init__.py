"""The method: model hopper parallelism as a pure state machine.

Nothing in this package reads a clock, opens a socket or a file, or draws from a global random
generator: events go in, actions come out. `scheduler` is the machine, `units` its nouns,
`events` and `actions` its language, `holdings` who may read what, `placement` who goes where,
`retention` which saved versions are still needed, and `simulator` a cluster without hardware.
"""
