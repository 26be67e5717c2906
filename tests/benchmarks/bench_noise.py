"""Speed of typographical noise on one core, on real text where it is found, else on made-up words.

Run: python tests/benchmarks/bench_noise.py --words 1000000 --data FOLDER
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np

from xltlib.noise import typing as noise

FILES = {"en": "src.eng", "de": "ref.deu", "ru": "ref.rus", "hi": "ref.hin", "ko": "ref.kor", "th": "ref.tha"}
FILES |= {"zh": "ref.zho-CN"}


def texts_of(language: str, words: int, data: Path | None, rng: np.random.Generator) -> list[str]:
    """Sentences with about `words` words (in Thai and Chinese: letters) in all."""
    if data is None:
        lengths = rng.integers(1, 12, size=words)
        letters = rng.choice(list("etaoinshrdlu"), size=lengths.sum()).tolist()
        ends = np.cumsum(lengths)
        made = ["".join(letters[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
        return [" ".join(made[i : i + 20]) for i in range(0, words, 20)]
    with gzip.open(data / "ntrex" / f"newstest2019-{FILES[language]}.txt.gz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    count = sum(len(line) if language in ("th", "zh") else len(line.split()) for line in lines)
    copies = -(-words // count)
    return (lines * copies)[: round(len(lines) * words / count)]


def main() -> None:
    """Print one row per language and rate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=int, default=1_000_000)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--languages", nargs="+", default=list(FILES))
    parser.add_argument("--data", type=Path, help="folder with ntrex/; made-up English words without it")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(f"{'language':10}{'rate':>6}{'units':>10}{'edits':>10}{'seconds':>9}")
    for language in args.languages if args.data else ["en"]:
        texts = texts_of(language, args.words, args.data, rng)
        for rate in args.rates:
            start = time.perf_counter()
            edits, units = noise.typo_edits(texts, rate, language, rng)
            for text, own in zip(texts, edits, strict=True):
                noise.apply_edits(text, own)
            seconds = time.perf_counter() - start
            print(f"{language:10}{rate:6.2f}{units:10,}{sum(map(len, edits)):10,}{seconds:9.2f}")


if __name__ == "__main__":
    main()
