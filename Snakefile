# A study on a cluster: its slices (objective x seed, then task x method x seed) as jobs into one store, then its notebooks
# by papermill, which find every run done. Needs the extra `grid`: pip install -e '.[grid]'
#
#   snakemake -j 8 --config profile=params/full.yaml                  # on local cores
#   snakemake -j 200 --executor slurm --workflow-profile my_cluster   # on Slurm; Kubernetes and others likewise
#
# Killed? `snakemake --unlock`, then the same command with --rerun-incomplete: finished runs stay, begun ones go on from
# their checkpoints. A slice's name holds the digest of its runs, so other parameters redo only what depends on them.
# Jobs are `xlt slice`, not notebooks: a notebook shows all seeds and methods together, and a job has those of one.

import shlex
import sys

from xltlib import params, study

PROFILE = config.get("profile", "params/full.yaml")
FOLDER, SLICES = study.stamps(study.open(params.load(PROFILE)))
XLT = f"OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 {shlex.quote(sys.executable)} -m xltlib"


def stamps(names):
    return [f"{FOLDER}/{name}{study.DONE}" for name in names]


rule all:
    input:
        f"{FOLDER}/study{study.DONE}",


rule slices:
    input:
        stamps(SLICES),


rule slice:
    input:
        lambda wildcards: [ancient(stamp) for stamp in stamps(SLICES[wildcards.slice].needs)],
    output:
        touch(f"{FOLDER}/{{slice}}{study.DONE}"),
    wildcard_constraints:
        slice="|".join(SLICES),
    threads: 1
    params:
        profile=shlex.quote(PROFILE),
    shell:
        "{XLT} slice {params.profile} {wildcards.slice}"


rule study:
    input:
        PROFILE,
        *[ancient(stamp) for stamp in stamps(SLICES)],
        *map(str, sorted((FOLDER.parents[2] / "notebooks").glob("*.ipynb"))),
    output:
        touch(f"{FOLDER}/study{study.DONE}"),
    threads: 2
    params:
        profile=shlex.quote(PROFILE),
    shell:
        "{XLT} run {params.profile} -j {threads}"
