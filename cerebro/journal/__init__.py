"""The durable record of a run: written by its driver, read by all.

journal      append-only records, and the claim to drive a run
records      one class for each kind of record, and its fields on disk
ledger       what the records add up to
worker_states  what a worker's records add up to
run_plan     what a run is to do
paths        every name on disk
ownership    driver.json: who drives a run now
log_files    the logs, as the original wrote them
provenance   provenance.json: versions, devices, seed, faults
"""
