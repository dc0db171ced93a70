#!/bin/bash
# Round 3 of a relaxation campaign: 3 array tasks of 8 ranks.
# Submit it with sbatch, once. `campaign resume` on the directory below goes on when it has ended.
#SBATCH --array=0-2
#SBATCH --cpus-per-task=4
#SBATCH --exclusive
#SBATCH --hint=nomultithread
#SBATCH --job-name=Cu-Au-0f1e2d3c4b5a69788796a5b4c3d2e1f0
#SBATCH --mail-type=END
#SBATCH --mem-per-cpu=384M
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='/data/Cu–Au (α) '"'"'quoted'"'"'/jobs/0003/%A_%a.log'
#SBATCH --requeue
#SBATCH --signal=USR2@75
#SBATCH --time=5

exec srun --mpi=pmi2 --kill-on-bad-exit=1 --wait=0 --cpus-per-task=4 '/opt/my env/bin/python' -m campaign.worker '{"directory": "/data/Cu\u2013Au (\u03b1) '"'"'quoted'"'"'", "round": 3, "n_ranks": 8, "claims": "mpi", "time_limit_s": 300.0, "leave_before_s": 75.0}'
