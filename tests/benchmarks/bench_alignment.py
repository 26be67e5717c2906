"""The aligner against the C++ programs fast_align and atools: links, cross-entropy, AER, speed and memory.

Run: FAST_ALIGN_DIR=BUILD_FOLDER python tests/benchmarks/bench_alignment.py --data FOLDER
Without FAST_ALIGN_DIR there is nothing to compare with, and the script says so. Where eflomal's package is
installed (the extra `eflomal`), it is the second peer for AER.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from xltlib.alignment import aligner
from xltlib.alignment.aligner import RECOMMENDED, Aligner, train
from xltlib.alignment.links import Links, aer, eflomal_links, matches, read_gold, symmetrize
from xltlib.data.words import UNSPACED
from xltlib.textfile import read_lines

GROW = "grow-diag-final-and"
SETTINGS = {
    "-d -v": Aligner(favor_diagonal=True, variational_bayes=True),
    "-d -o -v": RECOMMENDED,
    "-d -o -v -r": replace(RECOMMENDED, reverse=True),
}
ALIGN = """\
import sys
from xltlib.alignment import aligner, links
links.write_pharaoh(sys.stdout, aligner.align_both(links.tokenized_pairs(sys.argv[1])))
"""
MEASURE = """\
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
wall, cpu = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(wall, cpu, usage.ru_maxrss / 1024, file=sys.stderr)
sys.exit(status != 0)
"""
_CHARACTER = re.compile(f"([{UNSPACED}])")

BIBLE = ("bible/bible.en.txt.gz", "bible/bible.es.txt.gz")
Text = list[tuple[list[str], list[str]]]


def tokens(line: str) -> list[str]:
    """Lower-cased words, punctuation apart, characters of unspaced scripts one by one."""
    return re.findall(r"\w+|[^\w\s]", _CHARACTER.sub(r" \1 ", line.lower()))


def parallel(data: Path, a: str, b: str) -> Text:
    """Pairs of two files below the data folder without those that have an empty side."""
    pairs = zip(read_lines(data / a), read_lines(data / b), strict=True)
    return [pair for pair in ((tokens(x), tokens(y)) for x, y in pairs) if all(pair)]


def save(pairs: Text, path: Path) -> Path:
    path.write_text("".join(f"{' '.join(e)} ||| {' '.join(f)}\n" for e, f in pairs), encoding="utf-8")
    return path


def cpp(path: Path, options: str) -> tuple[str, list[str]]:
    """Links and cross-entropies of fast_align in one thread: more of them lose counts to races."""
    program = Path(os.environ["FAST_ALIGN_DIR"]) / "fast_align"
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [program, "-i", path, *options.split()], env=env, capture_output=True, text=True, check=True
    )
    return run.stdout, re.findall(r"cross entropy: (\S+)", run.stderr)


def read_links(path: Path, pairs: Text) -> Links:
    """Links of a file of `i-j` tokens."""
    return read_gold(path, [(len(e), len(f)) for e, f in pairs], 0).sure


def atools(forward: Path, backward: Path) -> str:
    program = Path(os.environ["FAST_ALIGN_DIR"]) / "atools"
    run = subprocess.run(
        [program, "-i", forward, "-j", backward, "-c", GROW], capture_output=True, text=True, check=True
    )
    return run.stdout


def same_links(name: str, pairs: Text, folder: Path) -> None:
    path = save(pairs, folder / "pairs")
    for options, settings in SETTINGS.items():
        links, entropies = cpp(path, options)
        (folder / "links").write_text(links)
        model = train(pairs, settings)
        theirs = read_links(folder / "links", pairs)
        common, _, _, total = matches(model.links, theirs, theirs).sum(0)
        entropy = [f"{bits:.6g}" for bits in model.cross_entropies] == entropies
        share = f"{100 * common / total:.4f} %"
        print(f"{name:18s}{options:14s}{len(pairs):>8d}{total:>10d}{share:>12s}   {entropy}")


def gold_texts(data: Path):
    """(name, pairs to align, gold of the first of them)."""
    folder = data / "word_alignment"
    for name in ("enfr", "zhen", "jaen"):
        lines = read_lines(folder / name / f"{name}.src-tgt")
        pairs = [tuple(side.lower().split() for side in line.split("|||")) for line in lines]
        gold = read_gold(folder / name / f"{name}.gold", [(len(e), len(f)) for e, f in pairs], 1)
        yield name, pairs, gold
    path = folder / "xl-wa" / "es" / "test.tsv"
    rows = [line.lower().split("\t") for line in read_lines(path)]
    pairs = [(row[0].split(), row[1].split()) for row in rows]
    gold = read_gold(path, [(len(e), len(f)) for e, f in pairs], 0, column=2)
    yield "enes", pairs, gold
    yield "enes + bible", pairs + parallel(data, *BIBLE), gold


def same_aer(name: str, pairs: Text, gold, folder: Path) -> None:
    path = save(pairs, folder / "pairs")
    (folder / "f").write_text(cpp(path, "-d -o -v")[0])
    (folder / "r").write_text(cpp(path, "-d -o -v -r")[0])
    (folder / "s").write_text(atools(folder / "f", folder / "r"))
    size = len(gold.sure)
    forward, backward = aligner.train_both(pairs)
    both = {
        "forward": (forward.links, folder / "f"),
        GROW: (symmetrize(forward.links, backward.links), folder / "s"),
    }
    row = [f"{name:15s}{len(pairs):>7d}"]
    for mine, theirs in both.values():
        for links in (mine, read_links(theirs, pairs)):
            row.append(f"{100 * aer(links[:size], gold.sure, gold.possible).aer:>9.2f}")
    print("".join(row) + eflomal(pairs, gold))


def eflomal(pairs: Text, gold) -> str:
    """AER of eflomal's two directions, symmetrised alike; empty where its package is not installed."""
    if not find_spec("eflomal"):
        return ""
    found = eflomal_links(pairs, GROW)[: len(gold.sure)]
    return f"{100 * aer(found, gold.sure, gold.possible).aer:>9.2f}"


def measured(command: list, **options) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak MiB of one process.

    A small process starts it: the system counts the peak of the one that does as the started one's own.
    """
    command = [sys.executable, "-c", MEASURE, *command]
    run = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True, **options)
    return tuple(map(float, run.stderr.split()))


def speed(pairs: Text, folder: Path) -> None:
    """Both directions and grow-diag-final-and: the C++ programs, each on all cores, then this one."""
    path = save(pairs, folder / "pairs")
    program = Path(os.environ["FAST_ALIGN_DIR"])
    runs = []
    for name, options in (("f", []), ("r", ["-r"])):
        with open(folder / name, "w") as out:
            command = [program / "fast_align", "-i", path, "-d", "-o", "-v", *options]
            runs.append(measured(command, stdout=out))
    with open(folder / "s", "w") as out:
        command = [program / "atools", "-i", folder / "f", "-j", folder / "r", "-c", GROW]
        runs.append(measured(command, stdout=out))
    theirs = [sum(run[0] for run in runs), sum(run[1] for run in runs), max(run[2] for run in runs)]
    command = [sys.executable, "-c", ALIGN, path]
    with open(folder / "mine", "w") as out:
        mine = measured(command, stdout=out)
    print(f"{'':12s}{'wall s':>9s}{'CPU s':>9s}{'peak MiB':>10s}")
    print("{:12s}{:9.1f}{:9.1f}{:10.0f}".format("C++", *theirs))
    print("{:12s}{:9.1f}{:9.1f}{:10.0f}".format("this", *mine))
    ratios = [theirs[0] / mine[0], theirs[1] / mine[1], mine[2] / theirs[2]]
    print("{:12s}{:8.1f}x{:8.1f}x{:9.2f}x".format("ratio", *ratios))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the real data")
    args = parser.parse_args()
    if "FAST_ALIGN_DIR" not in os.environ:
        print("skipped: FAST_ALIGN_DIR does not name the folder of fast_align and atools")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{'text':18s}{'options':14s}{'pairs':>8s}{'links':>10s}{'the same':>12s}   cross-entropy")
        texts = {
            "en-de opennmt": ("opennmt_ende_10k/train.en.gz", "opennmt_ende_10k/train.de.gz"),
            "en-zh 3am": ("3am_en_zh/train.en.gz", "3am_en_zh/train.zh.gz"),
            "en-es eutrans": ("eutrans_es_en/training.en.gz", "eutrans_es_en/training.es.gz"),
        }
        for title, files in texts.items():
            same_links(title, parallel(args.data, *files), folder)
        head = ("pairs", "forward", "C++", "gdfa", "C++", "eflomal")
        print("\n{:13s}".format("AER %") + "".join(f"{name:>9s}" for name in head))
        for title, pairs, gold in gold_texts(args.data):
            same_aer(title, pairs, gold, folder)
        speed(parallel(args.data, *BIBLE), folder)


if __name__ == "__main__":
    main()
