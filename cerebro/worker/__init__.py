"""One node: the daemon that answers at all times, and the executor process that trains.

daemon            the remote methods; which run this worker holds, and until when
daemon_log        how what it logs is written
run_folder        whether two drivers with one run id have one folder
session           one run as this worker sees it: lease, events, its executor
executor_process  the executor seen from the daemon: start, send, kill, notice its end
executor_main     the executor as a process: its pipe to the daemon, orders, its end
executor          the child process: data cache, units, staging
storage_probe     what can be read and written on shared storage
saver             publishing versions, however long storage refuses
failures          what kind of failure an error is, and its description for the driver
unit_timeout      ending a unit that runs for too long
output_capture    what user code prints while a unit runs
leftovers         what user code leaves behind that would hit later units
local_worker      a worker that ends with the process that started it
"""
