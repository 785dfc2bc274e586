"""A BIDS data set on SLURM by Dask, which starts as many workers as there is work.

    pip install medi2i[dask] dask-jobqueue
    python pipelines/slurm/jobqueue.py STUDY OUT --to T2w --jobs 10 [--gpu] [-- --seed 1 ...]

Workers and this process must see the same folders. A worker that is lost costs nothing: its scan
goes to another one.
"""

from __future__ import annotations

import argparse

from medi2i.cli import app

CORES = 4


def main() -> None:
    """Start workers, let ``medi2i bids`` use them, and stop them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study")
    parser.add_argument("out")
    parser.add_argument("--to", required=True, help="contrast wanted")
    parser.add_argument("--jobs", type=int, default=10, help="SLURM jobs at most")
    parser.add_argument("--memory", default="8GB", help="of each")
    parser.add_argument("--walltime", default="02:00:00", help="of each")
    parser.add_argument("--gpu", action="store_true", help="one GPU for each")
    parser.add_argument("rest", nargs="*", help="further options of medi2i bids, behind --")
    chosen = parser.parse_args()

    from dask_jobqueue.slurm import SLURMCluster

    with SLURMCluster(
        cores=CORES,
        processes=1,
        memory=chosen.memory,
        walltime=chosen.walltime,
        job_extra_directives=["--gres=gpu:1"] if chosen.gpu else [],
        worker_extra_args=["--resources", "GPU=1"] if chosen.gpu else [],
    ) as cluster:
        cluster.adapt(minimum_jobs=1, maximum_jobs=chosen.jobs)
        cluster.wait_for_workers(1)
        command = ["bids", chosen.study, chosen.out, "participant", "--to", chosen.to]
        app([*command, "--dask", cluster.scheduler_address, *chosen.rest])  # exits with its code


if __name__ == "__main__":
    main()
