"""The durable record of a run: written by its driver, read by all.

journal        append-only records, and the claim to drive a run
records        one class for each kind of record, and its fields on disk
ledger         what the records add up to
worker_states  what a worker's records add up to
best           which epoch of which model is best
flaws          what is wrong with an epoch's numbers, and whether it may be best
unit_times     what units have taken of late
run_progress   how far models have come, and how long what is left will take
time_left      the arithmetic of that
run_plan       what a run is to do
paths          every name on disk
entries        what lies under these names, and whether it is what it should be
checkpoint_paths  versions on disk relative to the run's folder, in memory absolute
identity       whether a run's folder is itself, was moved, or is a copy
ownership      driver.json: who drives a run now
processes      what this host tells about a process
log_files      the logs, as the original wrote them
provenance     provenance.json: versions, devices, seed, faults
"""
