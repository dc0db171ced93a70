#!/bin/bash
# Round 3 of a relaxation campaign: 2 array tasks of 3 ranks.
# Submit it with sbatch, once. `campaign resume` on the directory below goes on when it has ended.
#SBATCH --array=0-1
#SBATCH --cpus-per-task=1
#SBATCH --job-name=Cu-Au-0f1e2d3c4b5a69788796a5b4c3d2e1f0
#SBATCH --mem=0
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=3
#SBATCH --open-mode=append
#SBATCH --output='/data/Cu–Au (α) '"'"'quoted'"'"'/jobs/0003/%A_%a.log'
#SBATCH --requeue
#SBATCH --signal=USR2@15
#SBATCH --time=1

exec srun --mpi=none --kill-on-bad-exit=0 --wait=0 --cpus-per-task=1 '/opt/my env/bin/python' -m campaign.worker '{"directory": "/data/Cu\u2013Au (\u03b1) '"'"'quoted'"'"'", "round": 3, "n_ranks": 3, "claims": "files", "time_limit_s": 60.0, "leave_before_s": 15.0}'
