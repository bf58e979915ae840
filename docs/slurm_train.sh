#!/bin/bash
# Trains with one process for each GPU, on several machines, until the training is done:
#
#     sbatch docs/slurm_train.sh configs/mae_pretrain_base.yaml OUTPUT_DIR output/mae_base
#
# Before its time is over, or when another job takes its place, the job saves a checkpoint, queues
# again, and goes on with it. Set the numbers below, and what your cluster wants: --partition,
# --account, modules. SOLVER.IMS_PER_BATCH is the batch of all GPUs together.
#SBATCH --job-name=d2_multitask
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=USR1@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.log

set -u
if [ $# -eq 0 ]; then
    echo "usage: sbatch $0 CONFIG_FILE [KEY VALUE ...]" >&2
    exit 2
fi

# Copies of shards (docs/scaling.md), on a disk of the machine.
export D2_MULTITASK_SHARD_CACHE="${D2_MULTITASK_SHARD_CACHE:-${TMPDIR:-/tmp}/shards}"
export OMP_NUM_THREADS=1

# --wait: seconds that the other processes get once the first has ended.
srun --wait=60 python tools/train_net.py --resume --config-file "$@"
code=$?

# A training that a signal stops has saved a checkpoint and ends with 128 + the signal's number.
if [ "$code" -eq $((128 + $(kill -l USR1))) ]; then # --signal: the time is nearly over
    echo "Stopped before the end of the job's time; it queues again."
    scontrol requeue "$SLURM_JOB_ID"
elif [ "$code" -eq $((128 + $(kill -l TERM))) ]; then
    # Another job takes this one's place, and Slurm queues this one again, but only if it has not
    # ended by itself when its grace time is over. A job that was cancelled is ended here, too.
    sleep "${GRACE_SECONDS:-600}"
fi
exit "$code"
