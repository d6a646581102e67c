#!/usr/bin/env bash
# One node of a run on several. Start it on each of them, with the same values:
#   NODES=2 GPUS=8 HEAD=node0:29500 bash conf/launch/torchrun.sh -c conf/qwen3_vl_8b/stage1.yaml -c conf/overlay/fsdp.yaml --data.train train.csv --data.val val.csv
# NODES nodes with GPUS processes each meet at HEAD, an address of one of the nodes; RUN names the run, if several meet there.
# On SIGTERM or SIGUSR1 the run has GRACE seconds to finish its step and save, and ends with exit code 143.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${GRACE:-600}"
exec .venv/bin/python -m descore.runtime.torchrun --nnodes "$NODES" --nproc-per-node "$GPUS" --rdzv-backend c10d \
  --rdzv-endpoint "$HEAD" --rdzv-id "${RUN:-descore}" \
  -m descore.train fit "$@" --trainer.num_nodes "$NODES" --trainer.devices "$GPUS"
