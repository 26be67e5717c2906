"""The command line `xlt`: what each command does, and above it its arguments."""

import argparse
import inspect
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xltlib import StudyError
from xltlib.alignment import HEURISTICS

if TYPE_CHECKING:
    from xltlib.store import Result, Spec
    from xltlib.study import Session

# Modules are imported where a command needs them: torch takes seconds, and most commands do without.

SCORED = ("xnli", "pawsx", "xcopa", "mlqa", "xquad", "tydiqa")  # by their sets' official measures
COMMANDS: dict[str, tuple[Callable, tuple]] = {}  # name -> the function that does it, its arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 2 for input that cannot be used, 130 when interrupted."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed; to print there would be to print on standard output
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115
    try:
        args = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        code = args.func(args)
        sys.stdout.flush()
        return code or 0
    except KeyboardInterrupt:
        print("xlt: interrupted; run the same command again: it resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (StudyError, OSError) as error:  # of the system: a full disk, a folder that is read-only
        print(f"xlt: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("xlt", description="A study of zero-shot cross-lingual transfer.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (function, arguments) in COMMANDS.items():
        text = inspect.getdoc(function)
        command = commands.add_parser(name, help=text.partition(".")[0], description=text)
        command.set_defaults(func=function, set=[], jobs=None)
        for names, options in arguments:
            command.add_argument(*names, **options)
    return parser


def _command(*arguments: tuple) -> Callable:
    """Enter a function `_name` as the command `name` with these arguments."""

    def enter(function: Callable) -> Callable:
        COMMANDS[function.__name__.removeprefix("_")] = function, arguments
        return function

    return enter


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


def _jobs(text: str) -> int:
    from xltlib.pool import job_count

    return job_count(text)


def _assignment(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not found:
        raise StudyError(f"--set {text}: expected name=value, such as --set seeds=8")
    return name.strip(), value


_flag = partial(_argument, action="store_true")
_PROFILE = _argument("params", nargs="?", default="params/quick.yaml", help="a profile's file [%(default)s]")
_JOBS = _argument("-j", "--jobs", type=_jobs, metavar="N", help="processes [XLT_JOBS, or 2]")
_COMPUTE = _flag("--run", help="compute the runs that are missing")
_SET = _argument(
    "--set", action="append", type=_assignment, metavar="NAME=VALUE",
    help="another value of a parameter; may be repeated",
)  # fmt: skip


# The study


def _session(args: argparse.Namespace) -> "Session":
    """The study with the profile and the values that a command names."""
    from xltlib.params import load

    params = load(args.params, dict(args.set))  # a misspelt name is told at once
    from xltlib import study

    return study.open(params, jobs=args.jobs)


def _results(args: argparse.Namespace, session: "Session", specs: Sequence["Spec"]) -> list["Result"]:
    """The results of the runs that a command shows; StudyError where some are missing, without --run."""
    from xltlib import plan, pool

    left = pool.missing(specs, session.store)
    if left and not args.run:
        told = plan.outlook({spec: session.costs.seconds(spec) for spec in left}, session.jobs)
        raise StudyError(f"{args.params}: {told}. Add --run to compute them")
    return pool.compute_all(specs, session.store, session.jobs, planned=session.costs.seconds)


@_command(
    _PROFILE, _JOBS, _SET,
    _argument(
        "--only", nargs="+", action="extend", default=[], metavar="NN", help="these notebooks alone"
    ),
    _flag("--fresh", help="compute what is published but not in the store"),
    _flag("--runs", help="the runs alone, without notebooks: a slice of a long study"),
)  # fmt: skip
def _run(args: argparse.Namespace) -> None:
    """Run the study: its missing runs, its notebooks, its page."""
    from xltlib.params import load

    load(args.params, dict(args.set))  # a misspelt name is told at once
    from xltlib import study

    study.run(args.params, args.only, dict(args.set), args.jobs, args.fresh, args.runs)


@_command(
    _PROFILE,
    _flag("--replace", help="even where published runs have other numbers now"),
    _flag("--runs", help="the finished runs alone, of a study that goes on"),
)
def _publish(args: argparse.Namespace) -> None:
    """Put what `xlt run` has computed into figures/."""
    from xltlib import study

    session = study.open(study.named(args.params))
    print(study.publish_runs(session) if args.runs else study.publish_computed(session, args.replace))
    print(f"published: {session.published}")


@_command(_PROFILE)
def _status(args: argparse.Namespace) -> None:
    """Tell what is done, pending or failed of each notebook's runs, and the time it took."""
    session = _session(args)
    from xltlib import study
    from xltlib.params import table
    from xltlib.runs import STAGES

    specs = session.all_specs()
    states = {spec: session.store.status(spec) for spec in specs}
    seconds = {result.digest: result.seconds for result in session.available(specs)}

    def row(name: str, own: Sequence["Spec"], last: str = "") -> tuple[str, ...]:
        counts = Counter(states[spec] for spec in own)
        numbers = (counts[state] for state in ("done", "published", "missing", "failed"))
        spent = sum(seconds.get(spec.digest, 0) for spec in own)
        return (name, *map(str, numbers), f"{spent:.0f}", last)

    rows = [("", "done", "published", "pending", "failed", "seconds", ""), row("all", specs)]
    for stage in STAGES:
        spec = study.notebook(session, stage)
        done = session.store.status(spec) == "done"
        executed = f"executed in {session.store.result(spec).seconds:.0f} s" if done else "to execute"
        rows.append(row(stage, session.specs(stage), executed))
    print(table(rows))
    for spec in (spec for spec, state in states.items() if state == "failed"):
        print(f"failed: {spec}: {session.store.failure(spec)}")


@_command(_PROFILE, _JOBS)
def _plan(args: argparse.Namespace) -> None:
    """Tell runs, hours and downloads of a profile before it starts."""
    session = _session(args)
    from xltlib import plan, pool
    from xltlib.claims.evidence import claim_runs
    from xltlib.claims.ledger import load_ledger
    from xltlib.data.downloads import downloads
    from xltlib.params import table
    from xltlib.runs import closure

    costs, params, specs = session.costs, session.params, session.all_specs()
    left = pool.missing(specs, session.store)
    rows = [("runs", "all", "done", "published", "to do", "hours")]
    for kind in [*dict.fromkeys(spec.kind for spec in specs), "all"]:
        own, to_do = ([s for s in runs if kind in (s.kind, "all")] for runs in (specs, left))
        states = Counter(session.store.status(spec) for spec in own)
        numbers = (len(own), states["done"], states["published"], len(to_do))
        rows.append((kind, *map(str, numbers), costs.hours(to_do)))
    print(table(rows), end="\n\n")
    if params.device == "cuda" and not costs.gpu:
        millions = sum(plan.sequences(spec.params) for spec in left) / 1e6
        script = "`python tests/benchmarks/bench_gpu.py` there writes figures/throughput.json"
        print(f"Hours on a GPU: not measured; {script}. They are for {millions:,.0f} million sequences.\n")
    elif params.device == "cuda":
        print(f"Hours of one {costs.gpu['gpu']}, as measured on {costs.gpu['date']} with {params.model}.\n")
    else:
        told = plan.outlook({spec: costs.seconds(spec) for spec in left}, session.jobs)
        print(told if left else "Nothing is to be computed.", end="\n\n")
    rows = [("downloads", "size", "here", "licence", "repository")]
    for each in downloads(params):
        size = f"{each.megabytes} MB" if each.megabytes else "not known"
        rows.append((each.what, size, "yes" if each.here else "no", each.licence, each.repo))
    print(table(rows) if len(rows) > 1 else "Downloads: none.", end="\n\n")
    rows, ledger = [("statement", "runs", "to do", "hours", "cannot be run yet")], load_ledger(session.ledger)
    for claim in ledger.claims:
        own, absent = claim_runs(ledger, session.runs, claim.id)
        if own or absent:
            to_do = pool.missing(own, session.store)
            numbers = (str(len(closure(own))), str(len(to_do)), costs.hours(to_do))
            rows.append((claim.id, *numbers, str(len(absent) or "")))
    print(f"{table(rows)}\nA statement's runs are counted for it alone: most serve others too.")


@_command()
def _params(args: argparse.Namespace) -> None:
    """List all parameters: default, choices or bounds, meaning."""
    from xltlib.params import Params, described, table

    rows = described(Params)
    print(table([tuple(rows[0]), *(tuple(row.values()) for row in rows)]))


@_command(
    _argument("id", help="such as S0-1"),
    _argument("params", nargs="?", help="a profile's file, or none"),
    _COMPUTE, _JOBS, _SET,
)  # fmt: skip
def _claim(args: argparse.Namespace) -> None:
    """Show a statement's tests, evidence and verdict: as published at every scale, or of one profile."""
    if not args.params:
        return _published_claim(args)
    session = _session(args)
    from xltlib.claims import claim_text, evaluate, evidence, scores
    from xltlib.claims.ledger import load_ledger

    ledger = load_ledger(session.ledger)
    specs, absent = evidence.claim_runs(ledger, session.runs, args.id)
    for name in absent:
        print(f"cannot be run yet: {name}", file=sys.stderr)
    _results(args, session, specs)
    others = [spec for spec in session.specs("06_claims") if spec not in specs]
    results = session.available([*specs, *others])
    (result,) = evaluate.evaluate_claims(ledger, scores.table(results), session.params, args.id)
    result["command"] += "".join(f" --set {shlex.quote('='.join(pair))}" for pair in args.set)
    print(claim_text.render_text(result))
    missing = len(specs) + len(others) - len(results)
    if specs and missing:
        print(f"{missing} runs of the study are missing: with their tests, Holm will correct for more.")


def _published_claim(args: argparse.Namespace) -> None:
    """The verdicts of a statement over all published runs of each scale; nothing is computed."""
    from xltlib import study
    from xltlib.claims import claim_text, evidence
    from xltlib.claims.ledger import find, load_ledger
    from xltlib.store import read_json

    if args.set or args.jobs or args.run:
        raise StudyError("without a profile's file nothing is computed, and --set, -j and --run say nothing")
    root = study.find_root()
    ledger = load_ledger(root / "params" / "claims.yaml")
    claim, file = find(ledger, args.id), root / "figures" / evidence.POOLED
    pooled = read_json(file)
    try:
        entries = [known[claim.id] for known in pooled["scales"].values() if claim.id in known]
        # what is decided without runs is the same at every scale
        tested = [entry for entry in entries if any(test.get("effect") for test in entry["tests"])]
        text = "\n\n".join(claim_text.render_text(entry) for entry in tested or [entries[0]])
        outdated = pooled["ledger_digest"] != ledger.digest
    except evidence.DAMAGED as error:
        raise StudyError(f"{file}: damaged, or edited by hand ({error!r}): see xlt check") from None
    print(text)
    if outdated:
        print("The ledger has changed since these verdicts were published: see xlt check.")


@_command(
    _argument("number", type=int, choices=range(5), help="the report that asks it, 0 to 4"),
    _PROFILE, _COMPUTE, _JOBS, _SET,
)  # fmt: skip
def _question(args: argparse.Namespace) -> None:
    """Show the answer to an open question of the reports, and its effects."""
    session = _session(args)
    from xltlib.claims import scores
    from xltlib.noise import questions

    asked = questions.QUESTIONS[args.number]
    results = _results(args, session, asked.runs(session.runs))
    answer = questions.answer(args.number, scores.table(results), session.params)
    print(f"Question {args.number}: {asked.asks}\n{answer['sentence']}\n")
    for effect in answer["effects"]:
        print(questions.sentence(effect))
    print(f"\nScale: {session.params.scale}. Limits: {asked.limits}")


@_command(_argument("params", help="a profile's file"), _argument("run", help="its digest"))
def _job(args: argparse.Namespace) -> None:
    """Compute one run of a study, as a cluster's job."""
    session = _session(args)
    from xltlib.data import downloads
    from xltlib.pool import compute, tell_user

    spec = next((spec for spec in session.all_specs() if spec.digest == args.run), None)
    if spec is None:
        raise StudyError(f"{args.params}: there is no run {args.run}; have the parameters been changed?")
    downloads.require(session.params)
    import torch

    torch.set_num_threads(1)  # numbers depend on it; a cluster has as many jobs as cores
    result = compute(spec, session.store, tell_user, files=True)
    tell_user(f"{spec}: {result.seconds:.0f} s")


# The page


@_command(_PROFILE)
def _page(args: argparse.Namespace) -> None:
    """Build the reviewers' page from published evidence, with the notebooks that a profile's run executed."""
    from xltlib import page, study

    root = study.find_root()
    study.restore(root / "figures")
    notebooks = root / "runs" / "notebooks" / study.named(args.params).profile
    first = page.build(root / "figures", notebooks, root / "site", root / "params" / "claims.yaml")
    print(f"{first}: open it in a browser, no server is needed")


@_command()
def _check(args: argparse.Namespace) -> int:
    """Tell where page, verdicts, scores and ledger disagree (takes a minute)."""
    from xltlib import page, study
    from xltlib.claims import evidence

    root = study.find_root()
    figures, ledger, site = root / "figures", root / "params" / "claims.yaml", root / "site"
    study.restore(figures)
    problems = [*page.check(figures, ledger, site), *evidence.check(figures, ledger)]
    for problem in problems:
        print(f"xlt check: {problem}", file=sys.stderr)
    if not problems:
        built = f"the page in {site}" if site.is_dir() else f"no page in {site}"
        print(f"{figures}: agrees with its ledger and manifests; {built}")
    return 1 if problems else 0


# Tools for anybody's files


@_command(
    _argument("pairs", help="file of `source ||| target` lines, or - for standard input"),
    _flag("-d", "--favor_diagonal", help="favour links near the diagonal"),
    _flag("-o", "--optimize_tension", help="fit how near"),
    _flag("-v", "--variational_bayes", help="Dirichlet prior on the translation probabilities"),
    _flag("-r", "--reverse", help="generate the source from the target"),
    _argument("-I", "--iterations", type=int, metavar="N", help="EM iterations [5]"),
    _argument("-q", "--p0", type=float, dest="p_null", metavar="X", help="probability of NULL [0.08]"),
    _argument("-a", "--alpha", type=float, metavar="X", help="strength of the Dirichlet prior [0.01]"),
    _argument(
        "-T", "--diagonal_tension", type=float, dest="tension", metavar="X",
        help="start value of the tension [4], implies -d",
    ),
    _argument("--symmetrize", choices=HEURISTICS, help="align in both directions and combine them"),
)  # fmt: skip
def _align(args: argparse.Namespace) -> None:
    """Align the words of a parallel text with the fast_align model.

    Links (source-target, from 0) go to standard output, the cross-entropy of each iteration to standard
    error. The usual settings are -d -o -v.
    """
    if args.symmetrize and args.reverse:
        raise StudyError("--symmetrize aligns in both directions: leave out -r")
    from xltlib.alignment import aligner, links

    args.favor_diagonal |= args.tension is not None
    options = {name: getattr(args, name) for name in vars(aligner.RECOMMENDED)}
    settings = aligner.Aligner(**{name: value for name, value in options.items() if value is not None})
    pairs, progress = links.tokenized_pairs(args.pairs), partial(print, file=sys.stderr)
    if args.symmetrize:
        forward, backward = aligner.train_both(pairs, settings, progress)
        linked = links.symmetrize(forward.links, backward.links, args.symmetrize)
    else:
        linked = aligner.train(pairs, settings, progress).links
    links.write_pharaoh(sys.stdout, linked)


@_command(
    _argument("task", choices=SCORED, help="the set that was predicted"),
    _argument("gold", help="the data set's file, or one label a line"),
    _argument("predictions", help="of labels: in gold's forms; of answers: JSON of id to text"),
    _argument("--language", required=True, help="language of the text, of the context for questions"),
    _flag("--per-example", help="add the score of every example by its id"),
)
def _score(args: argparse.Namespace) -> None:
    """Print the official metrics, in percent, of anybody's predictions as JSON."""
    from xltlib import evaluation

    result = evaluation.score_files(args.task, args.gold, args.predictions, args.language)
    if not args.per_example:
        del result["scores"]
    print(json.dumps(result, indent=None if args.per_example else 2))


@_command(
    _argument("a", type=Path, metavar="A.json", help="scores of the system thought to be better"),
    _argument("b", type=Path, metavar="B.json", help="scores of the other, same task and examples"),
    _flag("--json", help="print the result as JSON"),
)
def _compare(args: argparse.Namespace) -> None:
    """Test two systems' per-example scores against each other."""
    from xltlib.significance import resampling

    result = resampling.compare_files(args.a, args.b)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    print(text if args.json else resampling.table(result))
