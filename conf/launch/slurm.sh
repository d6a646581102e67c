#!/usr/bin/env bash
# A run on the nodes that SLURM gives; from the root of the repository, with one task for each GPU:
#   sbatch --nodes 2 --gpus-per-node 8 --ntasks-per-node 8 --cpus-per-task 10 --time 24:00:00 conf/launch/slurm.sh \
#     -c conf/qwen3_vl_8b/stage1.yaml -c conf/overlay/fsdp.yaml --data.train train.csv --data.val val.csv
# Ten minutes before its time is up the run is asked to leave: it saves, and the job goes back into the queue.
#SBATCH --job-name descore
#SBATCH --signal USR1@600
#SBATCH --requeue
#SBATCH --open-mode append
#SBATCH --output slurm-%j.txt
set -uo pipefail

# Lightning's own requeueing would save in the middle of a step.
srun --kill-on-bad-exit=1 .venv/bin/python -m descore.train fit "$@" --resume auto \
  --trainer.plugins+ lightning.pytorch.plugins.environments.SLURMEnvironment --trainer.plugins.auto_requeue false \
  --trainer.num_nodes "$SLURM_NNODES" --trainer.devices "$SLURM_NTASKS_PER_NODE"
code=$?

if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
