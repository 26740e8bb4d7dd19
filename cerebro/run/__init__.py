"""One run, seen from the driver.

schedule       the entrance: arguments to a plan, plan to a run, run to a result
arguments      what users pass, checked and made plain
plan           what a run is to do, as it stands in the journal
connect        the workers at start: reachable, of one version, on one storage
driver         the loop: events to the scheduler, actions to journal and workers
link           the connection to one worker
procedure      asking eval_fn
journal        append-only records, and the claim to drive a run
holder         who drives a run now
ledger         what the journal adds up to
standing       how a run stands, from what lies in its folder
paths          every name on disk
progress       what is shown while it goes on, in a terminal, a notebook or a file
result         what users get; tables, logs and provenance are made from the ledger
"""
