#!/bin/bash
# A search as a Slurm job: a worker on each node, the driver on the first.
#
#     sbatch deploy/slurm.sh python examples/behavior_classification.py --ckpt-root /shared/runs
#
# The command gets `--workers URL...` and `--resume` added. If the job is requeued, after a node
# failed or its time was over, the search goes on from where it stood. Workers listen on port 7777,
# or on CEREBRO_PORT: jobs that share a node need one each.
#SBATCH --job-name=cerebro
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=1-00:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:TERM@60

set -euo pipefail
port=${CEREBRO_PORT:-7777}

# Without --kill-on-bad-exit=0 one lost node would end the workers on the others.
srun --kill-on-bad-exit=0 cerebro-standalone-worker --port "$port" \
    --threads "${SLURM_CPUS_PER_TASK:-1}" &
workers=$!

urls=()
for host in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    urls+=("http://$host:$port")
done
# Up to a minute for all of them; the driver takes those that answer, and the others when they do.
deadline=$((SECONDS + 60))
until cerebro workers "${urls[@]}" > /dev/null || ((SECONDS >= deadline)); do
    if ! kill -0 "$workers" 2> /dev/null; then
        echo "slurm.sh: no worker has started, see above; where port $port is taken by another" \
            "job on the node, set CEREBRO_PORT to a free one" >&2
        exit 1
    fi
    sleep 1
done

"$@" --resume --workers "${urls[@]}" &
driver=$!
# Slurm's warning before the end of the job's time: the driver closes its journal within 2 s.
trap 'kill -TERM "$driver"' TERM
status=0
wait "$driver" || status=$?
# A trap ends `wait`; the driver's own status comes with the next one.
if kill -0 "$driver" 2> /dev/null; then status=0; wait "$driver" || status=$?; fi
kill -TERM "$workers" 2> /dev/null || true
wait "$workers" || true
exit "$status"
