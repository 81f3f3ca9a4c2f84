#!/bin/bash
# A sweep on the nodes of a Slurm job: sbatch docs/clusters/slurm.sh sweeps/sst2.yaml --output runs/sst2
# from the root of the repository, in a folder that every node sees. Adapt the lines below to your partition.
#SBATCH --job-name=raydual
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
# Two minutes before the time is up the sweep is told to stop, so that `--resume` in the next job loses nothing.
#SBATCH --signal=TERM@120

set -euo pipefail

# The environment with raydual; the nodes have to see it.
if [ -f .venv/bin/activate ]; then . .venv/bin/activate; fi

# A token for this job alone, which nobody else on the nodes can read.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$PWD/.ray-token-$SLURM_JOB_ID"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT
(umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

# Slow file systems: how many seconds the nodes have to come together.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}

# The same command on every node: Ray starts there, the node named in the address is the head and runs the sweep, and
# Ray stops everywhere at the end.
srun --kill-on-bad-exit=0 ray symmetric-run \
  --address "$head:6379" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" \
  -- python -m raydual.sweep "$@" --address auto
