"""One node: the daemon that answers at all times, and the executor process that trains.

daemon            the remote methods; which run this worker holds, and until when
session           one run as this worker sees it: lease, events, its executor
unit_timeout      how long a unit may run
executor_process  the executor seen from the daemon: start, send, kill, notice its end
executor_main     the executor as a process: its pipe, orders passed on, its end
executor          what it does: data cache, units, reading ahead
saver             publishing versions, however long storage refuses
failures          what kind of failure an error is, and how it is described
output_capture    what user code prints while a unit runs
local_worker      a worker that lives and dies with its parent, for `LocalCluster`
"""
