"""Coverage, error rates and power of the intervals over simulated studies, on demand."""

import argparse
import time

import numpy as np

from xltlib.honesty import coverage, error_rates

WORLDS = {  # standard deviations on the latent scale, see `honesty.simulate`
    "seeds and items": {"sd_seed": 0.1, "sd_item": 0.5, "base": 0.7, "examples": 500, "settings": 2},
    "weak seeds": {"sd_seed": 0.03, "sd_item": 0.3, "base": 0.7, "examples": 500, "settings": 2},
    "strong seeds": {"sd_seed": 0.2, "sd_item": 0.2, "base": 0.6, "examples": 300, "settings": 1},
    "items only": {"sd_seed": 0.0, "sd_item": 0.7, "base": 0.6, "examples": 500, "settings": 4},
    "noise only": {"sd_seed": 0.0, "sd_item": 0.0, "base": 0.5, "examples": 500, "settings": 4},
    "many items": {"sd_seed": 0.05, "sd_item": 0.5, "base": 0.6, "examples": 2000, "settings": 2},
    "high accuracy": {"sd_seed": 0.1, "sd_item": 0.3, "base": 0.95, "examples": 500, "settings": 2},
}


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
    for number, (name, world) in enumerate(WORLDS.items()):
        for seeds in args.seeds:
            world = {**world, "seeds": seeds, "repeats": args.repeats}
            rng = np.random.default_rng([number, seeds])
            cover = coverage(mu=0.0, rng=rng, **world)
            null = error_rates(mu=0.02, margin=0.02, equivalence_margin=0.02, rng=rng, **world)
            power = error_rates(mu=args.gain, rng=rng, **world)["supported"]
            covered = [cover[name] for name in ("crossed", "bootstrap", "seeds_only", "examples_only")]
            rates = [null[name] for name in ("supported", "contradicted", "equivalent")]
            numbers = "".join(f"{value:9.3f}" for value in [*covered, *rates, power])
            print(f"{name:16}{seeds:3}{numbers}", flush=True)
    print(f"Monte Carlo error {cover['error']:.3f}; {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
