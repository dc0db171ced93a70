#!/bin/bash
# Round 3 of a relaxation campaign: 1 array tasks of 2 ranks.
# Submit it with sbatch, once. `campaign resume` on the directory below goes on when it has ended.
#SBATCH --array=0-0
#SBATCH --cpus-per-task=1
#SBATCH --gpus-per-node=4
#SBATCH --job-name=Cu-Au-0f1e2d3c4b5a69788796a5b4c3d2e1f0
#SBATCH --mem-per-cpu=4096M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output='/data/Cu–Au (α) '"'"'quoted'"'"'/jobs/0003/%A_%a.log'
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
#SBATCH --time=60

module load openmpi
trap : USR2
mpiexec -n 2 '/opt/my env/bin/python' -m campaign.worker '{"directory": "/data/Cu\u2013Au (\u03b1) '"'"'quoted'"'"'", "round": 3, "n_ranks": 2, "claims": "mpi", "time_limit_s": 3600.0, "leave_before_s": 120.0}'
