"""The command line `xlt`: the study's own commands here, those of single modules where they are at home."""

import argparse
import importlib
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xltlib import StudyError

if TYPE_CHECKING:  # torch takes seconds to import, and most commands do without
    from xltlib.store import Result, Spec

PROFILE = "params/quick.yaml"
ELSEWHERE = {  # command -> module that registers it when it is called, and what it does
    "check": ("page", "say where page, evidence and ledger disagree"),
    "page": ("page", "build the reviewer's page from published evidence"),
    "align": ("alignment.aligner", "word alignment with the fast_align model"),
    "score": ("evaluation", "score predictions in an official format"),
    "plan": ("plan", "runs, hours, disk and downloads of a profile"),
    "slice": ("grid", "compute a part of a study"),
    "compare": ("significance.compare", "test two systems' per-example scores against each other"),
}
RESUMES = "run the same command again: it resumes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 for input that cannot be used, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        args = _parser(argv[0] if argv else "").parse_args(argv)
        code = args.func(args)
        sys.stdout.flush()
        return code
    except StudyError as error:
        print(f"xlt: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"xlt: interrupted; {RESUMES}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parser(command: str) -> argparse.ArgumentParser:
    """The parser of all commands; of those at home elsewhere only the one that is called is imported."""
    parser = argparse.ArgumentParser("xlt", description="A study of zero-shot cross-lingual transfer.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_status(commands)
    _add_claim(commands)
    _add_question(commands)
    module = ELSEWHERE.get(command, ("", ""))[0]
    if module:
        importlib.import_module(f"xltlib.{module}").register(commands)
    for name, (home, text) in ELSEWHERE.items():
        if home != module:
            commands.add_parser(name, help=text)
    params = commands.add_parser("params", help="list all parameters: type, default, meaning")
    params.set_defaults(func=_params)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    text = "compute the runs that are missing, execute the notebooks, publish the evidence, build the page"
    parser = commands.add_parser("run", help="run the study", description=text)
    _add_profile(parser)
    _add_jobs(parser)
    _add_set(parser)
    add = parser.add_argument
    add("--only", nargs="+", default=[], metavar="NN", help="these notebooks only; nothing is published")
    add("--fresh", action="store_true", help="compute what is published but not in the store")
    parser.set_defaults(func=_run)


def _add_status(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("status", help="what is done, pending, failed, and the time it took")
    _add_profile(parser)
    parser.set_defaults(func=_status)


def _add_claim(commands: argparse._SubParsersAction) -> None:
    text = "compute the runs that a statement needs, then show its tests, evidence and verdict"
    parser = commands.add_parser("claim", help="one statement, its evidence and verdict", description=text)
    parser.add_argument("id", help="such as S0-1")
    told = "compute the runs of its deciding tests alone, not those of controls and ablations"
    parser.add_argument("--deciding", action="store_true", help=told)
    _add_profile(parser)
    _add_jobs(parser)
    _add_set(parser)
    parser.set_defaults(func=_claim)


def _add_question(commands: argparse._SubParsersAction) -> None:
    text = "compute the runs that answer one of the reports' open questions, then show its effects"
    parser = commands.add_parser("question", help="one open question and its answer", description=text)
    parser.add_argument("number", type=int, choices=range(5), help="the report that asks it, 0 to 4")
    _add_profile(parser)
    _add_jobs(parser)
    _add_set(parser)
    parser.set_defaults(func=_question)


def _add_profile(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("params", nargs="?", default=PROFILE, help="a profile's file [%(default)s]")


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-j", "--jobs", type=_count, metavar="N", help="processes [XLT_JOBS, or 2]")


def _add_set(parser: argparse.ArgumentParser) -> None:
    told = "another value of a parameter; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=told)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number, 1 or more")
    return int(text)


def _overrides(args: argparse.Namespace) -> dict[str, str]:
    overrides = {}
    for text in args.set:
        name, found, value = text.partition("=")
        if not found:
            raise StudyError(f"--set {text}: expected name=value, such as --set seeds=8")
        overrides[name.strip()] = value
    return overrides


def _run(args: argparse.Namespace) -> int:
    from xltlib import study

    study.run(args.params, args.only, _overrides(args), args.jobs, args.fresh)
    return 0


def _params(args: argparse.Namespace) -> int:
    from xltlib import params

    print(params.describe())
    return 0


def _claim(args: argparse.Namespace) -> int:
    from xltlib import study, wanted
    from xltlib.claims import evaluate as claims
    from xltlib.params import load
    from xltlib.pool import compute_all

    session = study.open(load(args.params, _overrides(args)), jobs=args.jobs)
    ledger = claims.load_ledger(session.ledger)
    specs, absent = wanted.claim_runs(ledger, session.params, args.id, args.deciding)
    for name in absent:
        print(f"cannot be run yet: {name}", file=sys.stderr)
    compute_all(specs, session.store, session.jobs)
    others = [spec for spec in session.specs("06_claims") if spec not in specs]
    results = session.there([*specs, *others])
    found = claims.evaluate(
        ledger, session.records(results), session.params, specification_curves=False
    )  # fmt: skip
    told = claims.claim_result(found, ledger, args.id)
    told["command"] += "".join(f" --set {shlex.quote(text)}" for text in args.set)
    told["command"] += " --deciding" if args.deciding else ""
    print(claims.render_text(told))
    missing = len(specs) + len(others) - len(results)
    if specs and missing:
        print(f"{missing} runs of the study are missing: with their tests, Holm will correct for more.")
    return 0


def _question(args: argparse.Namespace) -> int:
    from xltlib import study
    from xltlib.claims import scores
    from xltlib.noise import questions
    from xltlib.params import load
    from xltlib.pool import compute_all

    session = study.open(load(args.params, _overrides(args)), jobs=args.jobs)
    asked = questions.QUESTIONS[args.number]
    results = compute_all(asked.runs(session.runs), session.store, session.jobs)
    found = questions.answer(args.number, scores.table(results), session.params)
    print(f"Question {args.number}: {asked.asks}\n{found['sentence']}\n")
    for effect in found["effects"]:
        print(questions.sentence(effect))
    print(f"\nScale: {session.params.scale}. Limits: {asked.limits}")
    return 0


def _status(args: argparse.Namespace) -> int:
    from xltlib import notebooks, study
    from xltlib.params import load
    from xltlib.runs import STAGES, closure

    session = study.open(load(args.params))
    stages = {stage: session.specs(stage) for stage in STAGES}
    specs = closure(spec for wanted in stages.values() for spec in wanted)
    states = {spec: session.store.status(spec) for spec in specs}
    results = {spec: session.store.result(spec) for spec, state in states.items() if _is_there(state)}
    rows = [("", "done", "published", "pending", "failed", "seconds")]
    for kind in dict.fromkeys(spec.kind for spec in specs):
        rows.append((f"{kind} runs", *_tally([s for s in specs if s.kind == kind], states, results)))
    rows.append(("all runs", *_tally(specs, states, results)))
    for stage, wanted in stages.items():
        source = session.root / "notebooks" / f"{stage}.ipynb"
        job = study.job(session, stage, notebooks.declared(source)) if source.is_file() else None
        executed = f"executed in {job.seconds():.0f} s" if job and job.finished() else "to execute"
        rows.append(
            (stage, *_tally(wanted, states, results), executed if job else "there is no such notebook")
        )
    _print_table(rows)
    for spec, state in states.items():
        if state == "failed":
            print(f"failed: {spec}: {session.store.failure(spec)}")
    return 0


def _is_there(state: str) -> bool:
    return state in ("done", "published")


def _tally(
    specs: Sequence["Spec"], states: dict["Spec", str], results: dict["Spec", "Result"]
) -> tuple[str, ...]:
    """How many runs are done, published, pending and failed, and the seconds that those there took."""
    counts = Counter("pending" if states[s] in ("missing", "partial") else states[s] for s in specs)
    seconds = sum(results[spec].seconds for spec in specs if spec in results)
    return (*(str(counts[name]) for name in ("done", "published", "pending", "failed")), f"{seconds:.0f}")


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    """Names to the left, numbers to the right below their heading, remarks as they are."""
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for name, *numbers in rows:
        cells = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=False)]
        print("  ".join([name.ljust(widths[0]), *cells, *numbers[5:]]).rstrip())
