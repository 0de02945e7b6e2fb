#!/bin/bash
#SBATCH --job-name=small-ebd0071f36aeda0b
#SBATCH --nodes=2
#SBATCH --ntasks=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:40:00
#SBATCH --signal=B:TERM@120
#SBATCH --no-requeue
#SBATCH --output=/home/me/runs/.slurm/jobs/small-ebd0071f36aeda0b/job.log
#SBATCH --partition=long
#SBATCH --account=deep
#SBATCH --begin=2030-01-02T03:04:05
#SBATCH --constraint=skylake
#SBATCH --mem=0

# One agent on each node starts the machines of any number of runs, and outlives who asked for them.
# It ends with the job, or when nobody has wanted anything for 900 s.
module load python/3.11
srun --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 --cpu-bind=none \
  --cpus-per-task=4 \
  /opt/py/bin/python /home/me/runs/.slurm/jobs/runner/DIGEST/runner.py serve /home/me/runs/.slurm/jobs/small-ebd0071f36aeda0b 900 &
agents=$!
trap 'kill -TERM $agents' TERM  # the time is nearly over: the machines are ended, not killed
wait $agents
wait $agents
