#!/bin/bash
# Round 3 of a relaxation campaign: 100 array tasks of 4 ranks.
# Submit it with sbatch, once. `campaign resume` on the directory below goes on when it has ended.
#SBATCH --account=proj-1
#SBATCH --array=0-99%20
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-task=1
#SBATCH --job-name=Cu-Au-0f1e2d3c4b5a69788796a5b4c3d2e1f0
#SBATCH --mem-per-cpu=3072M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output='/data/Cu–Au (α) '"'"'quoted'"'"'/jobs/0003/%A_%a.log'
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=720

module load cuda
export OMP_PLACES='cores'
exec srun --mpi=pmix --kill-on-bad-exit=1 --wait=0 --cpus-per-task=8 '/opt/my env/bin/python' -m campaign.worker '{"directory": "/data/Cu\u2013Au (\u03b1) '"'"'quoted'"'"'", "round": 3, "n_ranks": 4, "claims": "mpi", "time_limit_s": 43200.0, "leave_before_s": 120.0, "threads": 8}'
