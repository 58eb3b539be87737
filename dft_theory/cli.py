"""The command line: parse, call, print. Every verb is a few lines over public functions."""

import argparse
import importlib
import json
import os
import runpy
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from dft_theory import experiment, ledger, provenance, results, specs, testing
from dft_theory.claims import CLAIMS, Verdict
from dft_theory.objectives import OBJECTIVES, Objective, objectives
from dft_theory.registry import Registry, UnknownNameError
from dft_theory.testing.loss_function import ANOTHER
from dft_theory.xrays import xray

if TYPE_CHECKING:
    from dft_theory.diagnostics import Diagnosis
    from dft_theory.diagnostics.escape import Plan
    from dft_theory.figures.base import Figure
    from dft_theory.llm.recipe import Exam, Recipe

KINDS = ("identity", "inequality", "limit", "refutation")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb: status 0 where all is well, 1 where a claim fails, 2 for misuse."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except ModuleNotFoundError as error:
        extras = "pip install 'dft-theory[llm,train,evaluate]'"
        print(f"dft-theory: {error}; language models need their extras: {extras}", file=sys.stderr)
        return 2
    except (UnknownNameError, ValueError, OSError, ImportError, AssertionError) as error:
        print(f"dft-theory: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndft-theory: interrupted; files written before are whole", file=sys.stderr)
        return 130


def list_(options: argparse.Namespace) -> int:
    """Objectives, claims, figures and recipes by name."""
    found: dict[str, list[dict[str, object]]] = {
        "objectives": [
            {
                "name": o.name,
                "title": o.title,
                "cite": o.cite,
                "equation": o.equation,
                "level": o.level,
                "needs": list(o.needs),
                "family": o.family,
                "note": o.note,
                "potential": o.potential is not None,
                "optimum": o.optimum is not None,
                "limits": [f"{x.parameter} -> {x.at:g} is {x.objective}" for x in o.limits],
            }
            for o in OBJECTIVES
        ],
        "claims": [
            {
                "name": c.name,
                "title": c.title,
                "kind": c.kind,
                "standing": c.standing,
                "statement": c.statement,
                "cites": list(c.cites),
                "mutants": len(c.mutants),
            }
            for c in CLAIMS
        ],
        "figures": _figures_listed(),
        "recipes": [
            {"name": r.name, "title": r.title, "objective": r.objective, "paper": r.paper}
            for r in _recipes().values()
        ],
    }
    if options.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    for group, items in found.items():
        print(f"{group} ({len(items)})")
        for item in items:
            print(f"  {item['name']:46s} {item['title']}")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Check claims, print a line for each, and fail if one does not hold."""
    verdicts = _verified(options.names, options.kind or (), thorough=options.thorough)
    if options.json:
        results.write_json(options.json, ledger.as_json(verdicts))
    return _summary(verdicts)


def check(options: argparse.Namespace) -> int:
    """Judge a loss by the objective it claims to be, or an objective by its own declarations."""
    name = options.subject
    subject = specs.named(name)
    if isinstance(subject, Objective) and options.claim is not None:
        raise ValueError(f"{name} is an objective, judged by its own declarations: leave out --as")
    if isinstance(subject, Objective):
        with _one_thread():
            report = testing.check_objective(subject)
    elif not callable(subject):
        raise ValueError(f"{name} is of type {type(subject).__name__}, no objective and no loss")
    elif options.claim is None:
        raise ValueError(f"say what {name} claims to be: --as dft")
    else:
        claim, reduction = objectives[options.claim], testing.REDUCTIONS[options.reduction]
        with _one_thread():
            report = testing.check_loss_function(subject, claims_to_be=claim, reduction=reduction)
            told = tuple(_another(d, name, claim) for d in report.diagnosis)
        report = replace(report, subject=name, diagnosis=told)
    print(report)
    if options.json:
        results.write_json(options.json, report.as_dict())
    return {"conforms": 0, "deviates": 1, "could not be checked": 2}[report.verdict]


def _another(diagnosis: str, name: str, claim: Objective) -> str:
    """The diagnosis; of a different objective also which, where its X-ray shows a known one."""
    if diagnosis != ANOTHER:
        return diagnosis
    try:
        near = xray(name).nearest
    except ValueError:  # it cannot be X-rayed, and that verb says why
        return diagnosis
    known = near.exact and near.name != claim.name
    return ANOTHER.replace(":", f", {near}:", 1) if known else diagnosis


def xray_(options: argparse.Namespace) -> int:
    """What objectives or losses do to the logits, recovered from their gradients."""
    found = []
    for spec in options.specs:
        with _one_thread():
            found.append(xray(spec))
        print(found[-1], end="\n" if spec is options.specs[-1] else "\n\n")
    if options.json:
        results.write_json(options.json, [x.as_json() for x in found])
    if options.draw:
        from dft_theory.figures.xray import save

        save(found, options.draw)
    return 0


def diagnose(options: argparse.Namespace) -> int:
    """What objectives would do to a model on demonstrations, before any training."""
    from dft_theory.diagnostics import DEFAULT, page, record, text
    from dft_theory.diagnostics.escape import Plan

    chosen = [objectives[name] for name in options.objective or ()] or DEFAULT
    plan = Plan(
        lr=options.lr, optimizer=options.optimizer, batch=options.batch, steps=options.steps
    )
    if (options.model or "").startswith("toy:"):
        from dft_theory.toys.diagnose import diagnose as diagnose_toy

        name = options.model.removeprefix("toy:")
        with _one_thread():
            found = diagnose_toy(name, chosen, plan=plan, seed=options.seed or 0)
    else:
        found = _diagnosed(options, chosen, plan)
    print("\n".join(text.lines(found)))
    if options.json:
        about = provenance.manifest(["dft-theory", *sys.argv[1:]], seeds=[options.seed or 0])
        results.write_json(options.json, record.as_json(found) | {"environment": about})
    if options.html:
        results.write_text(options.html, page.render(found))
    return 0


def experiments(options: argparse.Namespace) -> int:
    """Run toy experiments, on seeds of their own against the record, or to write the record."""
    scripts = experiment.scripts(options.names, Path.cwd())
    tier = "full" if options.full else "quick"
    bar = tqdm(total=len(scripts), desc=f"experiments --{tier}", disable=None, leave=False)
    failed, started = [], time.perf_counter()
    for script, seconds, report, agrees in experiment.run(scripts, tier, options.jobs):
        name = script.stem.replace("_", "-")
        tqdm.write(f"{name}, {seconds:.0f} s\n{report}\n")
        bar.update()
        failed += [] if agrees else [name]
    bar.close()
    print(
        f"{len(scripts) - len(failed)} of {len(scripts)} experiments "
        f"{'recorded' if options.full else 'agree with their records on other seeds'}, "
        f"{time.perf_counter() - started:.0f} s"
    )
    for name in failed:
        print(f"FAILED {name}", file=sys.stderr)
    return 1 if failed else 0


def train(options: argparse.Namespace) -> int:
    """Train a model by a recipe, or print what that would take."""
    from dft_theory.llm.recipe import describe, each_seed

    file, _, name = options.recipe.rpartition(":")
    known = _recipes(Path(file) if file else None)
    if not known:
        raise FileNotFoundError(
            "recipes come with the repository, not with the installed package: run this from a "
            "checkout, or name your own as FILE.py:NAME"
        )
    recipe = known[name]
    if options.objective and options.objective != recipe.objective:
        # The paper's numbers are of its own objective.
        recipe = replace(recipe, objective=options.objective, expected=())
    if options.dry_run:
        print("\n".join(describe(recipe)))
        return 0
    from dft_theory.llm.gradient_check import WrongGradientError
    from dft_theory.llm.trainer import StoppedError
    from dft_theory.llm.training import quiet
    from dft_theory.llm.training import train as train_

    quiet()
    exam = recipe.evaluation if options.evaluate else None
    processes, rank = (int(os.environ.get(name, "0")) for name in ("WORLD_SIZE", "RANK"))
    if exam and processes < 2:
        _check_exam(exam)
    runs = each_seed(recipe, options.out or Path("runs") / recipe.name, options.seed)
    for number, (one, out) in enumerate(runs, start=1):
        begun = (out / "manifest.json").exists()
        if len(runs) > 1:
            print(f"seed {one.seeds[0]}, {number} of {len(runs)}: {out}")
        try:
            run = train_(
                one,
                out,
                resume=options.resume and (begun or len(runs) == 1),
                gradient_check=options.gradient_check,
                max_steps=options.max_steps,
                report_to=options.report_to or (),
                command=["dft-theory", *sys.argv[1:]],
            )
        except (WrongGradientError, StoppedError) as error:
            print(f"dft-theory: {error}", file=sys.stderr)
            return 1
        if rank:
            continue
        for key, value in run.summary().items():
            if isinstance(value, int | float | str):
                print(f"  {key:16s} {value}")
        if exam and processes > 1:  # the others would wait for the one that generates
            again = shlex.join(["dft-theory", *sys.argv[1:]])
            print(f"to evaluate it, in one process: {again} --resume")
        elif exam:
            _examine(exam, one, out)
    return 0


def _check_exam(exam: "Exam") -> None:
    """Before hours of training. Raises: ImportError, FileNotFoundError for what it will lack."""
    from dft_theory.llm.problems import load_problems

    for library in ("math_verify", "pebble"):
        importlib.import_module(library)
    for problems in exam.problems:
        try:
            load_problems(problems, limit=exam.limit)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}; or train alone: --no-evaluate") from error


def _examine(exam: "Exam", recipe: "Recipe", out: Path) -> None:
    from dft_theory.llm import load_pretrained
    from dft_theory.llm.evaluation import COLUMNS, examine
    from dft_theory.llm.generate import TransformersEngine

    source = load_pretrained(str(out / "model"), dtype=getattr(torch, recipe.compute))
    source.model.to("cuda" if torch.cuda.is_available() else "cpu")
    # Its folder may be moved, or named otherwise the next time.
    engine = TransformersEngine(replace(source, name=recipe.name))
    for name, found in examine(exam, engine, out / "evaluation").items():
        print(f"{name}: {found}")
    print(COLUMNS)


def notebooks(options: argparse.Namespace) -> int:
    """Names of the notebooks and how to open them, or all their cells executed anew."""
    from dft_theory import catalog
    from dft_theory.notebooks import NotebookError, execute, find, select

    known = find()
    chosen = select(known, options.names)
    if not options.execute:
        for page in chosen:
            print(f"  {page.name:32s} {page.header.promise} {page.header.minutes} minutes.")
        print("to open them in a browser: make notebooks; to run every cell: --execute")
        return 0
    for page in tqdm(chosen, desc="notebooks", disable=None, leave=False):
        started = time.perf_counter()
        try:
            news = "written" if execute(page) else "unchanged"
        except NotebookError as error:
            print(f"FAILED {page.name}, which is left as it was: {error}", file=sys.stderr)
            return 1
        tqdm.write(f"  {page.name:32s} {news:9s} {time.perf_counter() - started:4.0f} s")
    readme = chosen[0].source.with_name("README.md")
    text = readme.read_text(encoding="utf-8")
    results.write_text(readme, catalog.refreshed(text, catalog.blocks(readme.parents[1])))
    return 0


def generate(options: argparse.Namespace) -> int:
    """Completions of problems by a model, kept in a folder; an interrupted call goes on."""
    from dft_theory.llm import load_pretrained
    from dft_theory.llm.generate import BOXED, Engine, Sampling, TransformersEngine, VllmEngine
    from dft_theory.llm.generate import generate as draw
    from dft_theory.llm.problems import load_problems

    problems = load_problems(options.problems, limit=options.limit, seed=options.seed)
    sampling = Sampling(
        samples=options.samples,
        temperature=options.temperature,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed or 0,
        instruction="" if options.plain else BOXED,
    )
    engine: Engine
    if options.engine == "vllm":
        engine = VllmEngine.load(
            options.model, dtype=options.dtype, device=options.device, batch=options.batch
        )
    else:
        source = load_pretrained(options.model, dtype=getattr(torch, options.dtype))
        source.model.to(options.device)
        engine = TransformersEngine(source, batch=options.batch)
    found = draw(engine, problems, sampling, options.out, part=options.part)
    print(
        f"{len(found)} completions in {options.out}; to score them: dft-theory grade {options.out}"
    )
    return 0


def grade(options: argparse.Namespace) -> int:
    """Score completions, with two judges and intervals over problems."""
    from dft_theory.llm.evaluation import COLUMNS, compare, folder_scores, grade_folder

    print(grade_folder(options.folder, seconds=options.seconds, workers=options.workers))
    print(COLUMNS)
    if options.training_data:
        from dft_theory.llm.evaluation import training_data

        for file, rows in training_data(options.folder).items():
            print(f"{rows} rows in {file}")
    if options.against:
        found = compare(folder_scores(options.folder), folder_scores(options.against))
        print(f"minus {options.against}: {found.difference}, p = {found.p_value:.3g}, paired")
    return 0


def evaluate(options: argparse.Namespace) -> int:
    """Generate, then grade."""
    options.out = options.folder
    return generate(options) or grade(options)


def figures(options: argparse.Namespace) -> int:
    """Redraw figures from their records, or recompute the records first."""
    from dft_theory.figures import base

    folder = base.find_folder()
    chosen = _chosen_figures(options.names)
    for figure in tqdm(chosen, desc="figures", disable=None, leave=False):
        if options.recompute and figure.cost != "gpu-hours":
            base.recompute(figure, folder)
        for path in base.draw(figure, folder):
            tqdm.write(str(path.relative_to(folder.parent)))
    return 0


def reproduce(options: argparse.Namespace) -> int:
    """Verify everything, redraw every figure, check a real model, and write one page."""
    from dft_theory.reproduction import write_report

    verdicts = _verified((), (), thorough=options.thorough)
    status = _summary(verdicts)
    page = write_report(verdicts, Path(options.out))
    print(f"report: {page}")
    return status


def _diagnosed(
    options: argparse.Namespace, chosen: Sequence[Objective], plan: "Plan"
) -> "Diagnosis":
    """The diagnosis of a real model; what can be refused early is refused before it is loaded."""
    from dft_theory.diagnostics import with_baseline
    from dft_theory.llm import diagnose as llm
    from dft_theory.llm.own_data import demonstrations
    from dft_theory.llm.pretrained import DEFAULT_MODEL

    with_baseline(chosen, reference=options.reference is not None)
    data = demonstrations(options.data, limit=options.limit, seed=options.seed)
    names = [options.model or DEFAULT_MODEL]
    if options.reference is not None:
        names.append(names[0] if options.reference == "self" else options.reference)
    models = llm.load(names, device=options.device, dtype=getattr(torch, options.dtype))
    with tqdm(total=len(data), desc="demonstrations", disable=None, leave=False) as bar:
        return llm.diagnose(
            models[0],
            data,
            chosen,
            reference=models[1] if len(models) > 1 else None,
            plan=plan,
            sample=options.tokens,
            seed=options.seed or 0,
            progress=bar.update,
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """The tensors are tiny: threads would only wait for one another, long on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _verified(names: Sequence[str], kinds: Sequence[str], *, thorough: bool) -> list[Verdict]:
    chosen = ledger.select(names, kinds)
    if not chosen:
        raise ValueError("no claim matches both the names and the kind")
    verdicts = []
    bar = tqdm(total=len(chosen), desc="claims", disable=None, leave=False)
    where = ledger.scope(thorough=thorough)
    with _one_thread():
        for verdict in ledger.verify(chosen, where):
            verdicts.append(verdict)
            tqdm.write(ledger.line(verdict))
            bar.update()
    bar.close()
    enumerated, reads = ledger.sharing(chosen, where)
    if enumerated:
        print(f"{enumerated} policy cases, enumerated once each, were read {reads} times")
    return verdicts


def _summary(verdicts: Sequence[Verdict]) -> int:
    failed = [v for v in verdicts if not v.holds]
    rejected = sum(v.rejected for v in verdicts)
    declared = sum(len(v.claim.mutants) for v in verdicts)
    print(
        f"{len(verdicts) - len(failed)} of {len(verdicts)} claims hold, "
        f"{rejected} of {declared} mutants rejected, "
        f"{sum(v.cases for v in verdicts)} cases, {sum(v.seconds for v in verdicts):.1f} s"
    )
    for verdict in failed:
        print(f"FAILED {verdict.claim.name}: {verdict.reason}", file=sys.stderr)
    return 1 if failed else 0


def _chosen_figures(names: Sequence[str]) -> "tuple[Figure, ...]":
    from dft_theory.figures import base

    known = Registry("figure", base.discover())
    return tuple(known[name] for name in names) if names else tuple(known.values())


def _recipes(file: Path | None = None) -> "Registry[Recipe]":
    """`RECIPES` of a file, by default of the checkout around us; none in an installed wheel."""
    if file is None:
        roots = (Path.cwd(), Path(__file__).resolve().parents[1])
        files = [root / "experiments" / "recipes.py" for root in roots]
        file = next((f for f in files if f.is_file()), None)
    elif not file.is_file():
        raise FileNotFoundError(f"there is no file {file}: give FILE.py:NAME")
    return Registry("recipe", () if file is None else runpy.run_path(str(file))["RECIPES"])


def _figures_listed() -> list[dict[str, object]]:
    from dft_theory.figures import base

    try:
        found = base.discover()
    except base.FigureError:
        return []  # an installed wheel has no figures: they live in the repository
    return [
        {"name": f.name, "title": f.title, "paper_ref": f.paper_ref, "cost": f.cost} for f in found
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dft-theory",
        description="Dynamic Fine-Tuning (DFT): its identity, proved, enumerated and checked.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    verb = verbs.add_parser("list", help="objectives, claims, figures and recipes")
    verb.add_argument("--json", action="store_true", help="as JSON on standard output")
    verb.set_defaults(run=list_)

    verb = verbs.add_parser("verify", help="check claims")
    verb.add_argument("names", nargs="*", metavar="CLAIM", help="names; shell wildcards work")
    verb.add_argument("--kind", action="append", choices=KINDS, help="only claims of this kind")
    verb.add_argument("--thorough", action="store_true", help="more sizes, seeds and cases")
    verb.add_argument("--json", metavar="FILE", type=Path, help="write the verdicts to FILE")
    verb.set_defaults(run=verify)

    verb = verbs.add_parser("check", help="judge a loss function, or an objective")
    verb.add_argument("subject", metavar="MODULE:FUNCTION|OBJECTIVE")
    verb.add_argument("--as", dest="claim", metavar="OBJECTIVE", help="what the loss claims to be")
    verb.add_argument("--reduction", default="token-mean", choices=testing.REDUCTIONS)
    verb.add_argument("--json", metavar="FILE", type=Path, help="write the report to FILE")
    verb.set_defaults(run=check)

    verb = verbs.add_parser("xray", help="what a loss does to the logits, from its gradient")
    verb.add_argument("specs", nargs="+", metavar="OBJECTIVE|MODULE:FUNCTION")
    verb.add_argument("--json", metavar="FILE", type=Path, help="write all findings to FILE")
    verb.add_argument("--draw", metavar="FILE.png", type=Path, help="draw weight and reward")
    verb.set_defaults(run=xray_)

    verb = verbs.add_parser("diagnose", help="what an objective will do to your model and data")
    verb.add_argument("--model", metavar="M", help="folder, hub id or toy:SCENARIO (SmolLM2-135M)")
    verb.add_argument(
        "--data",
        metavar="D",
        help='.jsonl file, gsm8k or sample; rows of a file: {"question", "answer"}, {"prompt", '
        '"completion"}, {"prompt", "response"}, {"instruction", "output"}, {"problem", '
        '"solution"} or {"messages": [user, assistant]}',
    )
    verb.add_argument(
        "--objective", action="append", metavar="O", help="may be repeated (power-0.5 and dft)"
    )
    verb.add_argument("--reference", metavar="self|M", help="for objectives that are anchored")
    verb.add_argument(
        "--limit", type=int, default=64, help="demonstrations (%(default)s); a large N takes all"
    )
    verb.add_argument("--tokens", type=int, help="at most so many random tokens of a response")
    verb.add_argument("--seed", type=int, help="draw the demonstrations, not the first ones")
    verb.add_argument("--lr", type=float, default=5e-5, help="planned (%(default)s, the paper's)")
    verb.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    verb.add_argument("--batch", type=int, default=256, help="demonstrations (%(default)s)")
    verb.add_argument("--steps", type=int, help="planned")
    verb.add_argument("--device", default="cpu", help="cpu, cuda or cuda:1")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    verb.add_argument("--json", metavar="FILE", type=Path, help="write every number to FILE")
    verb.add_argument("--html", metavar="FILE", type=Path, help="write the page to FILE")
    verb.set_defaults(run=diagnose)

    verb = verbs.add_parser("reproduce", help="verify everything, redraw figures, write the page")
    verb.add_argument("--thorough", action="store_true", help="more sizes, seeds and cases")
    verb.add_argument("--out", default="report", metavar="FOLDER", help="default: report")
    verb.set_defaults(run=reproduce)

    verb = verbs.add_parser("experiments", help="when DFT helps and when it hurts, on toys")
    verb.add_argument("names", nargs="*", metavar="EXPERIMENT")
    tier = verb.add_mutually_exclusive_group()
    tier.add_argument(
        "--quick", action="store_true", help="other seeds against the record (default)"
    )
    tier.add_argument("--full", action="store_true", help="write the record anew")
    verb.add_argument("--jobs", type=int, default=2, help="how many at a time, a thread each")
    verb.set_defaults(run=experiments)

    verb = verbs.add_parser("train", help="train a model by a recipe")
    verb.add_argument(
        "recipe", metavar="RECIPE", help="a name from dft-theory list, or FILE.py:NAME"
    )
    verb.add_argument("--objective", metavar="O", help="in place of the recipe's")
    verb.add_argument("--dry-run", action="store_true", help="print settings, memory and time")
    verb.add_argument("--out", metavar="FOLDER", type=Path, help="default: runs/RECIPE")
    verb.add_argument("--resume", action="store_true", help="go on, training or evaluating")
    verb.add_argument("--max-steps", type=int, metavar="N", help="a shorter run, schedule and all")
    verb.add_argument(
        "--seed",
        type=int,
        action="append",
        metavar="N",
        help="into FOLDER/seed-N; may be repeated; default: all of the recipe's, one after another",
    )
    verb.add_argument(
        "--report-to", action="append", metavar="NAME", help="numbers also to tensorboard, wandb"
    )
    verb.add_argument("--no-evaluate", dest="evaluate", action="store_false")
    verb.add_argument("--no-gradient-check", dest="gradient_check", action="store_false")
    verb.set_defaults(run=train)

    verb = verbs.add_parser("notebooks", help="list the notebooks, or execute them")
    verb.add_argument("names", nargs="*", metavar="NOTEBOOK", help="names or numbers, such as 04")
    verb.add_argument("--execute", action="store_true", help="run every cell and keep the output")
    verb.set_defaults(run=notebooks)

    drawing = argparse.ArgumentParser(add_help=False)
    drawing.add_argument("--model", help="folder or hub id; default: SmolLM2-135M-Instruct")
    drawing.add_argument(
        "--problems", default="sample", help="a set such as gsm8k, or a .jsonl file"
    )
    drawing.add_argument("--limit", type=int, metavar="N", help="only so many problems")
    drawing.add_argument("--samples", type=int, default=16, help="completions a problem")
    drawing.add_argument("--temperature", type=float, default=1.0, help="0 is greedy")
    drawing.add_argument("--max-new-tokens", type=int, default=4096)
    drawing.add_argument("--seed", type=int, help="of the choice of problems and of the samples")
    drawing.add_argument("--plain", action="store_true", help="do not ask for a boxed answer")
    drawing.add_argument("--engine", default="transformers", choices=("transformers", "vllm"))
    drawing.add_argument("--batch", type=int, default=64, help="sequences at a time")
    drawing.add_argument("--part", type=int, default=16, help="problems written at a time")
    drawing.add_argument("--device", default="cpu")
    drawing.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    scoring = argparse.ArgumentParser(add_help=False)
    scoring.add_argument(
        "--against", metavar="FOLDER", type=Path, help="a graded run to compare with"
    )
    scoring.add_argument(
        "--training-data", action="store_true", help="keep what is right, and pairs, to train on"
    )
    scoring.add_argument("--seconds", type=float, default=5.0, help="limit of one comparison")
    scoring.add_argument("--workers", type=int, default=2, help="processes that compare")

    verb = verbs.add_parser(
        "generate", parents=[drawing], help="completions of problems by a model"
    )
    verb.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    verb.set_defaults(run=generate)

    verb = verbs.add_parser("grade", parents=[scoring], help="score completions")
    verb.add_argument("folder", metavar="FOLDER", type=Path)
    verb.set_defaults(run=grade)

    verb = verbs.add_parser("evaluate", parents=[drawing, scoring], help="generate and grade")
    verb.add_argument("--out", dest="folder", metavar="FOLDER", type=Path, required=True)
    verb.set_defaults(run=evaluate)

    verb = verbs.add_parser("figures", help="redraw figures from their records")
    verb.add_argument("names", nargs="*", metavar="FIGURE")
    verb.add_argument("--recompute", action="store_true", help="compute the records again first")
    verb.set_defaults(run=figures)
    return parser


if __name__ == "__main__":
    sys.exit(main())
