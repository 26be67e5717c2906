"""Coverage, error rates and power of the intervals over simulated studies, on demand."""

import argparse
import time

import numpy as np

from xltlib.significance.honesty import GROUPED, WORLDS, coverage, error_rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2000, help="simulated studies per row (default: 2000)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[2, 3, 4, 5, 6, 8, 12], help="numbers of seeds"
    )
    parser.add_argument("--gain", type=float, default=0.03, help="true effect for the power columns")
    args = parser.parse_args()
    start = time.perf_counter()
    columns = ("crossed", "bootstr.", "seeds", "items", "false +", "false -", "false =", "power")
    print("world             R" + "".join(f"{column:>9}" for column in columns))
    for number, (name, world) in enumerate({**WORLDS, "grouped": GROUPED}.items()):
        for seeds in args.seeds:
            world = {**world, "seeds": seeds, "repeats": args.repeats}
            rng = np.random.default_rng([number, seeds])
            cover = coverage(mu=0.0, rng=rng, **world)
            null, equal, gain = error_rates(rng, (0.0, 0.02, args.gain), mu=0.02, **world)
            covered = [cover[name] for name in ("crossed", "bootstrap", "seeds_only", "examples_only")]
            rates = [null["supported"], null["contradicted"], equal["equivalent"], gain["supported"]]
            numbers = "".join(f"{value:9.3f}" for value in [*covered, *rates])
            print(f"{name:16}{seeds:3}{numbers}", flush=True)
    print(f"Monte Carlo error {cover['error']:.3f}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
