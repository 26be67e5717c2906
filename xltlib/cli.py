"""The command line `xlt`: every command, its arguments, and the function that does the work."""

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xltlib import StudyError

if TYPE_CHECKING:
    from xltlib.study import Session

# Modules are imported where a command needs them: torch takes seconds, and most commands do without.

PROFILE = "params/quick.yaml"
SCORED = ("xnli", "pawsx", "xcopa", "mlqa", "xquad", "tydiqa")  # by their sets' official measures
HEURISTICS = ("intersect", "union", "grow-diag", "grow-diag-final", "grow-diag-final-and")
RESUMES = "run the same command again: it resumes"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 for input that cannot be used, 130 when interrupted."""
    try:
        args = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        code = args.func(args)
        sys.stdout.flush()
        return code or 0
    except StudyError as error:
        print(f"xlt: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"xlt: interrupted; {RESUMES}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk, a read-only folder: the study's own files are checked where read
        print(f"xlt: error: {error.filename or 'system'}: {error.strerror or error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("xlt", description="A study of zero-shot cross-lingual transfer.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    study = argparse.ArgumentParser(add_help=False)
    study.add_argument("params", nargs="?", default=PROFILE, help="a profile's file [%(default)s]")
    jobs = argparse.ArgumentParser(add_help=False)
    jobs.add_argument("-j", "--jobs", type=_jobs, metavar="N", help="processes [XLT_JOBS, or 2]")
    work = argparse.ArgumentParser(add_help=False, parents=[study, jobs])
    text = "another value of a parameter; may be repeated"
    work.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)

    def command(name: str, function, text: str, parents=(), **more) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, parents=list(parents), **more)
        added.set_defaults(func=function)
        return added

    run = command("run", _run, "run the study: its missing runs, its notebooks, its page", [work])
    run.add_argument("--only", nargs="+", default=[], metavar="NN", help="these notebooks alone")
    run.add_argument("--fresh", action="store_true", help="compute what is published but not in the store")
    add = command("publish", _publish, "put what `xlt run` has computed into figures/").add_argument
    add("profile", nargs="?", default=PROFILE, help="a profile's file [%(default)s]")
    add("--replace", action="store_true", help="even where published runs have other numbers now")
    add("--runs", action="store_true", help="the finished runs alone, of a study that goes on")
    command("status", _status, "what is done, pending or failed, and the time it took", [study])
    text = "runs, hours and downloads of a profile, told before it starts"
    command("plan", _plan, text, [study, jobs])
    command("params", _params, "list all parameters: type, default, meaning")
    text = "the runs that a statement needs, its tests, evidence and verdict"
    claim = argparse.ArgumentParser(add_help=False)
    claim.add_argument("id", help="such as S0-1")
    claim = command("claim", _claim, text, [claim, work])
    claim.add_argument("--deciding", action="store_true", help="without the runs of controls and ablations")
    number = argparse.ArgumentParser(add_help=False)
    number.add_argument("number", type=int, choices=range(5), help="the report that asks it, 0 to 4")
    command("question", _question, "the runs that answer an open question, and its effects", [number, work])
    text = "compute the runs of one slice of a study, as a cluster's job"
    add = command("slice", _slice, text).add_argument
    add("params", help="a profile's file")
    add("name", nargs="?", help="of the slice; without one, all of them are listed")
    _add_page(command("page", _page, "build the reviewer's page from published evidence"))
    _add_page(
        command("check", _check, "tell where page, verdicts, scores and ledger disagree (takes a minute)")
    )
    _add_align(command("align", _align, "word alignment with the fast_align model"))
    _add_score(command("score", _score, "score predictions in an official format"))
    _add_compare(command("compare", _compare, "test two systems' per-example scores against each other"))
    return parser


def _jobs(text: str) -> int:
    from xltlib.pool import job_count

    try:
        return job_count(text)
    except StudyError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{text[:20]!r}: expected a whole number, 0 or more")
    return int(text)


def _overrides(args: argparse.Namespace) -> dict[str, str]:
    overrides = {}
    for text in args.set:
        name, found, value = text.partition("=")
        if not found:
            raise StudyError(f"--set {text}: expected name=value, such as --set seeds=8")
        overrides[name.strip()] = value
    return overrides


def _session(args: argparse.Namespace) -> "Session":
    """The study with the profile and the values that a command names: first the parameters, then the rest."""
    from xltlib.params import load

    params = load(args.params, _overrides(args) if "set" in args else None)
    from xltlib import study

    return study.open(params, jobs=getattr(args, "jobs", None))


# The study


def _run(args: argparse.Namespace) -> None:
    from xltlib.params import load

    load(args.params, _overrides(args))  # a misspelt name is told at once
    from xltlib import study

    study.run(args.params, args.only, _overrides(args), args.jobs, args.fresh)


def _publish(args: argparse.Namespace) -> None:
    args.params = args.profile
    session = _session(args)
    from xltlib import study

    if args.runs:
        print(f"runs: {study.publish_runs(session)}")
    else:
        print(study.publish_computed(session, args.replace).sentence())
    print(f"published: {session.published}")


def _params(args: argparse.Namespace) -> None:
    from xltlib.params import describe

    print(describe())


def _plan(args: argparse.Namespace) -> None:
    session = _session(args)
    from xltlib.params import table
    from xltlib.plan import Forecast, sequences
    from xltlib.pool import missing
    from xltlib.runs import closure

    costs, params, specs = session.costs, session.params, session.all_specs()
    left = missing(specs, session.store)
    rows = [("runs", "all", "done", "published", "to do", "hours")]
    for kind in [*dict.fromkeys(spec.kind for spec in specs), "all"]:
        own, to_do = ([s for s in runs if kind in (s.kind, "all")] for runs in (specs, left))
        states = Counter(session.store.status(spec) for spec in own)
        numbers = (len(own), states["done"], states["published"], len(to_do))
        rows.append((kind, *map(str, numbers), _hours([costs.seconds(spec) for spec in to_do])))
    print(table(rows), end="\n\n")
    if params.device == "cuda" and not costs.gpu:
        millions = sum(sequences(spec.params) for spec in left) / 1e6
        script = "`python tests/benchmarks/bench_gpu.py` there writes figures/throughput.json"
        print(f"Hours on a GPU: not measured; {script}. They are for {millions:,.0f} million sequences.\n")
    elif params.device == "cuda":
        print(f"Hours of one {costs.gpu['gpu']}, as measured on {costs.gpu['date']} with {params.model}.\n")
    else:
        forecast = Forecast(left, session.jobs, costs.seconds).sentence()
        print(forecast if left else "Nothing is to be computed.", end="\n\n")
    if params.data == "real":
        from xltlib.data.downloads import downloads

        rows = [("downloads", "size", "here", "licence", "repository")]
        for each in downloads(params):
            size = f"{each.megabytes} MB" if each.megabytes else "not known"
            rows.append((each.what, size, "yes" if each.here else "no", each.licence, each.repo))
        none = "Downloads: none; the folder that XLT_DATA names holds the text."
        print(table(rows) if len(rows) > 1 else none, end="\n\n")
    else:
        print("Downloads: none; the languages are synthetic.\n")
    rows = [("statement", "runs", "to do", "hours", "cannot be run yet")]
    for claim, (own, absent) in session.claims().items():
        to_do = missing(own, session.store)
        hours = _hours([costs.seconds(spec) for spec in to_do])
        if own or absent:
            rows.append((claim, str(len(closure(own))), str(len(to_do)), hours, str(len(absent) or "")))
    print(f"{table(rows)}\nA statement's runs are counted for it alone: most serve others too.")


def _hours(seconds: list[float | None]) -> str:
    """The hours of some runs; None: never measured."""
    known = [x for x in seconds if x is not None]
    if seconds and not known:
        return "not measured"
    hours, unknown = sum(known) / 3600, len(seconds) - len(known)
    return (f"{hours:.0f}" if hours >= 100 else f"{hours:.2f}") + (f" + {unknown} runs" if unknown else "")


def _status(args: argparse.Namespace) -> None:
    session = _session(args)
    from xltlib import study
    from xltlib.params import table
    from xltlib.runs import STAGES

    specs = session.all_specs()
    states = {spec: session.store.status(spec) for spec in specs}
    results = {result.digest: result for result in session.available(specs)}

    def row(name: str, own: Sequence, last: str = "") -> tuple[str, ...]:
        counts = Counter("pending" if states[s] in ("missing", "partial") else states[s] for s in own)
        numbers = (counts[state] for state in ("done", "published", "pending", "failed"))
        seconds = sum(results[s.digest].seconds for s in own if s.digest in results)
        return (name, *map(str, numbers), f"{seconds:.0f}", last)

    rows = [("", "done", "published", "pending", "failed", "seconds", "")]
    for kind in dict.fromkeys(spec.kind for spec in specs):
        rows.append(row(f"{kind} runs", [spec for spec in specs if spec.kind == kind]))
    rows.append(row("all runs", specs))
    for stage in STAGES:
        job = study.job(session, stage)
        executed = f"executed in {job.seconds():.0f} s" if job.finished() else "to execute"
        rows.append(row(stage, session.specs(stage), executed))
    print(table(rows))
    for spec in (spec for spec, state in states.items() if state == "failed"):
        print(f"failed: {spec}: {session.store.failure(spec)}")


def _claim(args: argparse.Namespace) -> None:
    session = _session(args)
    from xltlib import study
    from xltlib.claims.claim_text import render_text
    from xltlib.claims.evaluate import evaluate_claims
    from xltlib.claims.ledger import load_ledger
    from xltlib.claims.scores import table
    from xltlib.pool import compute_all

    ledger = load_ledger(session.ledger)
    specs, absent = study.claim_runs(ledger, session.runs, args.id, args.deciding)
    for name in absent:
        print(f"cannot be run yet: {name}", file=sys.stderr)
    compute_all(specs, session.store, session.jobs, planned=session.costs.seconds)
    others = [spec for spec in session.specs("06_claims") if spec not in specs]
    results = session.available([*specs, *others])
    (result,) = evaluate_claims(ledger, table(results), session.params, args.id)
    result["command"] += "".join(f" --set {shlex.quote(text)}" for text in args.set)
    result["command"] += " --deciding" if args.deciding else ""
    print(render_text(result))
    missing = len(specs) + len(others) - len(results)
    if specs and missing:
        print(f"{missing} runs of the study are missing: with their tests, Holm will correct for more.")


def _question(args: argparse.Namespace) -> None:
    session = _session(args)
    from xltlib.claims import scores
    from xltlib.noise import questions
    from xltlib.pool import compute_all

    asked = questions.QUESTIONS[args.number]
    specs = asked.runs(session.runs)
    results = compute_all(specs, session.store, session.jobs, planned=session.costs.seconds)
    answer = questions.answer(args.number, scores.table(results), session.params)
    print(f"Question {args.number}: {asked.asks}\n{answer['sentence']}\n")
    for effect in answer["effects"]:
        print(questions.sentence(effect))
    print(f"\nScale: {session.params.scale}. Limits: {asked.limits}")


def _slice(args: argparse.Namespace) -> None:
    session = _session(args)
    from xltlib import study
    from xltlib.plan import slices
    from xltlib.pool import compute, missing, tell_user
    from xltlib.runs import describe

    cut = slices(session.all_specs())
    if args.name is None:
        for each in cut.values():
            print(each.name, len(each.specs), *each.needs)
        return
    if args.name not in cut:
        raise StudyError(f"{args.params}: there is no slice {args.name}; have the parameters been changed?")
    study.require_downloads(session.params)
    import torch

    torch.set_num_threads(1)  # numbers depend on it; a cluster has as many jobs as cores
    for spec in cut[args.name].specs:
        if missing([spec], session.store):
            result = compute(spec, session.store, tell_user)
            tell_user(f"{describe(spec)}: {result.seconds:.0f} s")


# The page


def _add_page(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--figures", type=Path, default=Path("figures"), help="published evidence [figures]")
    add("--ledger", type=Path, default=Path("params/claims.yaml"), help="[params/claims.yaml]")
    add("--out", type=Path, default=Path("site"), help="folder of the page [site]")
    if parser.prog.endswith("page"):
        add("--notebooks", type=Path, help="executed notebooks [runs/notebooks/quick, where it is]")


def _page(args: argparse.Namespace) -> None:
    from xltlib import page, study

    study.restore(args.figures)
    notebooks = args.notebooks or Path("runs/notebooks/quick")
    first = page.build(args.figures, notebooks, args.out, args.ledger)
    print(f"{first}: open it in a browser, no server is needed")


def _check(args: argparse.Namespace) -> int:
    from xltlib import page, study
    from xltlib.claims import evidence

    study.restore(args.figures)
    problems = page.check(args.figures, args.ledger, args.out)
    for file in sorted(args.figures.glob("[!.]*/runs.json")):
        problems += evidence.check_runs(file.parent)
        if file.with_name("claims.json").is_file():
            problems += evidence.check_verdicts(file.parent, args.ledger)
    problems += evidence.check_pooled(args.figures, args.ledger)
    for problem in problems:
        print(f"xlt check: {problem}", file=sys.stderr)
    if not problems:
        site = f"the page in {args.out}" if args.out.is_dir() else f"no page in {args.out}"
        print(f"{args.figures}: agrees with its ledger and manifests; {site}")
    return 1 if problems else 0


# Tools for anybody's files


def _add_align(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Align the words of a parallel text. Links (source-target, from 0) go to standard output, the "
        "cross-entropy of each iteration to standard error. The usual settings are -d -o -v."
    )
    add = parser.add_argument
    add("pairs", help="file of `source ||| target` lines, or - for standard input")
    for option, name, text in (
        ("-d", "--favor_diagonal", "favour links near the diagonal"),
        ("-o", "--optimize_tension", "fit how near"),
        ("-v", "--variational_bayes", "Dirichlet prior on the translation probabilities"),
        ("-r", "--reverse", "generate the source from the target"),
    ):
        add(option, name, action="store_true", help=text)
    add("-I", "--iterations", type=int, metavar="N", help="number of EM iterations (5)")
    add("-q", "--p0", type=float, metavar="X", help="probability of NULL (0.08)")
    add("-a", "--alpha", type=float, metavar="X", help="strength of the Dirichlet prior (0.01)")
    add(
        "-T", "--diagonal_tension", type=float, metavar="X", help="start value of the tension (4), implies -d"
    )
    add("-p", "--conditional_probabilities", metavar="FILE", help="write the table of log probabilities")
    add("--force-align", metavar="MODEL", help="align with a saved model and its settings, without training")
    add("--save-model", metavar="MODEL", help="keep what was learned")
    add("--symmetrize", choices=HEURISTICS, help="align in both directions and combine them")


def _align(args: argparse.Namespace) -> int:
    if args.symmetrize and (args.reverse or args.conditional_probabilities):
        raise StudyError("--symmetrize aligns in both directions: leave out -r and -p")
    written = {"--save-model": args.save_model, "-p": args.conditional_probabilities}
    for option, path in ((option, Path(path)) for option, path in written.items() if path):
        existed = path.exists()
        try:  # told before the work whose result the file is to hold
            path.open("ab").close()
        except OSError as error:
            raise StudyError(f"{option} {path}: cannot be written: {error.strerror}") from None
        if not existed:
            path.unlink()
    from xltlib.alignment import aligner

    default = aligner.Aligner()
    names = {"iterations": "iterations", "p0": "p_null", "alpha": "alpha"}
    for name, field in names.items():
        if getattr(args, name) is None:
            setattr(args, name, getattr(default, field))
    return aligner.command(args)


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.description = "Print the official metrics, in percent, of anybody's predictions as JSON."
    add = parser.add_argument
    add("task", choices=SCORED, help="the set that was predicted")
    add("gold", help="the data set's file, or one label a line")
    add("predictions", help="in gold's forms, or JSON of id to label or answer")
    add("--language", required=True, help="language of the text, of the context for questions")
    add("--style", choices=("mlqa", "squad"), help="answer normalisation; default: the task's official one")
    add("--per-example", action="store_true", help="add the score of every example by its id")


def _score(args: argparse.Namespace) -> None:
    from xltlib import evaluation

    result = evaluation.score_files(args.task, args.gold, args.predictions, args.language, args.style)
    if not args.per_example:
        del result["scores"]
    print(json.dumps(result, indent=None if args.per_example else 2))


def _add_compare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("a", type=Path, metavar="A.json", help="scores of the system thought to be better")
    add("b", type=Path, metavar="B.json", help="scores of the other, same task and examples")
    add("--metric", help="compare this metric only (default: all that both files have)")
    add("--intersect", action="store_true", help="compare the shared examples only")
    add("--alpha", type=float, default=0.05, help="1 - level of the interval (default: 0.05)")
    add("--seed", type=_natural, default=0, help="seed of the permutation test (default: 0)")
    add("--json", action="store_true", help="print the result as JSON")


def _compare(args: argparse.Namespace) -> None:
    from xltlib.significance import resampling

    result = resampling.compare_files(
        args.a, args.b, metric=args.metric, intersect=args.intersect, alpha=args.alpha, seed=args.seed
    )
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    print(text if args.json else resampling.table(result))
