"""The live process that decides: one run, from what users pass to what they get.

schedule           the public entrance
request            its arguments as one object, and the checked request made of them
argument_checks    what users pass, checked and made plain
launch             a new run or one to resume: contact, claim, result
run_session        one driver's turn at a run: paths, journal, ownership, ledger, clock
loop               what workers tell becomes events; actions go to the journal and to workers
events_in          what workers say, as events for the scheduler: one method for each kind
orders_out         the scheduler's actions, as orders to workers
waits              what is waited for, said when that takes long
interruption       the user's wish to stop, obeyed between two rounds
attempt_results    what attempts have given until they count, and the records of it
workers            the workers of a run, as they join, load, are lost, and come back
worker_connection  the connections to one worker
admission          who may take part: reachable, of one version, on one storage
permissions        what is said where users are closed out of each other's files
workers_file       workers.json
trusted            whether strangers could have written what workers load
decisions          asking eval_fn
search_decisions   asking a search procedure
replay             decisions and visit orders from a recorded run
resume             whether what is given is what a run was started with
changes            what has changed between two plans, from what to what
continuation       what a run that is resumed continues with: models, appended configurations
versions           which published versions are kept, and deleting the others
remote_errors      errors for what failed on workers
signals            Ctrl-C and SIGTERM
check              every configuration tried for two steps in this process
"""
