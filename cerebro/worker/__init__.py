"""One node: the daemon that answers at all times, and the executor process that trains.

cli               parse, check, log, run
daemon            the remote methods; which run this worker holds, and until when
held_run          one run as this worker sees it: lease, events, its executor
executor_process  the executor seen from the daemon: start, send, kill, notice its end
executor          the child process: data cache, units, staging and saving
protocol          every name and message that crosses a boundary
"""
