"""Jobs of a cluster: what is submitted (`submission.py`, `script.py`, `sbatch.py`), what its nodes do (`attempt.py`,
`node.py`, `ray_node.py`, `health.py`, `meeting.py`), and what happens after (`verdict.py`).

    FOLDER/submitted_1/job.json         what the nodes do
    FOLDER/submitted_1/job.sbatch       what SLURM was given
    FOLDER/submitted_1/run.json         the run, every key; this is trained, whatever becomes of the configurations
    RUN/attempt_0/                      one start of the job: what its nodes said, and what came of it
    RUN/job-ID.log                      what all attempts of a job said, one after the other
"""
