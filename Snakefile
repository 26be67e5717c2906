# A study on a cluster: each of its runs as a job into one store, as soon as those that it builds on are there; then its
# notebooks by papermill, which find every run done. Needs the extra `grid`: pip install -e '.[grid]'
#
#   snakemake -j 8 --config profile=params/full.yaml                  # on local cores
#   snakemake -j 200 --executor slurm --workflow-profile my_cluster   # on Slurm; Kubernetes and others likewise
#
# Killed? `snakemake --unlock`, then the same command with --rerun-incomplete: finished runs stay, begun ones go on from
# their checkpoints. A run is named by its digest, so other parameters redo only what depends on them.
# Jobs are `xlt job`, not notebooks: a notebook shows all seeds and methods together.

import shlex
import sys

from xltlib import params, study

PROFILE = config.get("profile", "params/full.yaml")
FOLDER, RUNS = study.stamps(study.open(params.load(PROFILE)))
XLT = f"OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 {shlex.quote(sys.executable)} -m xltlib"


def stamps(runs):
    return [f"{FOLDER}/{run}{study.DONE}" for run in runs]


rule all:
    input:
        f"{FOLDER}/study{study.DONE}",


rule runs:
    input:
        stamps(RUNS),


rule job:
    input:
        lambda wildcards: [ancient(stamp) for stamp in stamps(RUNS[wildcards.run])],
    output:
        touch(f"{FOLDER}/{{run}}{study.DONE}"),
    wildcard_constraints:
        run="[0-9a-f]{16}",
    threads: 1
    params:
        profile=shlex.quote(PROFILE),
    shell:
        "{XLT} job {params.profile} {wildcards.run}"


rule study:
    input:
        PROFILE,
        *[ancient(stamp) for stamp in stamps(RUNS)],
        *map(str, sorted((FOLDER.parents[2] / "notebooks").glob("*.ipynb"))),
    output:
        touch(f"{FOLDER}/study{study.DONE}"),
    threads: 2
    params:
        profile=shlex.quote(PROFILE),
    shell:
        "{XLT} run {params.profile} -j {threads}"
