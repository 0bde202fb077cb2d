"""Check what the pages say of the study's runs against the runs."""

import csv
import json
import re
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from conftest import ROOT
from report_runs import committed
from scipy.stats import t, ttest_1samp
from test_docs_tables import DOCS, table

from symlora.audit.names import TASKS
from symlora.config.compose import CONFIG_DIR
from symlora.config.formatting import format_rate
from symlora.config.typed import read_yaml
from symlora.report.choice import choose, read_best
from symlora.report.collect import collect
from symlora.report.comparison import Criteria, compare
from symlora.report.figures.norms_frame import decay_to_zero
from symlora.stats import decide, paired_interval


def test_findings_are_those_of_table_2() -> None:
    lines = csv.DictReader((ROOT / "results" / "tables" / "table2.csv").read_text().splitlines())
    printed = {(line["Section"], line["Task"], line["Method"]): line for line in lines}
    for page in ("findings.md", "log.md", "../README.md"):
        found = re.findall(r"^\| (task, (.+?)) \|", (DOCS / page).read_text(), re.MULTILINE)
        assert found
        for head, section in found:
            for row in table(page, head):
                task = re.split("[, ]", row[head.strip("`")])[0]
                place = f"Ours: {section.replace('`', '')}", task
                own = {name: printed[*place, name] for name in ("SymLoRA", "LoRA")}
                for name, line in own.items():
                    assert row[name] == line["Mean, as shown"].split()[0], (page, row)
                if "head alone" in row:
                    bare = printed.get((*place, "head alone"), {"Mean, as shown": "–"})
                    assert row["head alone"] == bare["Mean, as shown"].split()[0], (page, row)
                assert row["difference, 95 %"] == own["SymLoRA"]["95 %, paired"], (page, row)
                assert list(row.values())[-1] == own["SymLoRA"]["Verdict"], (page, row)


def told(*pages: str) -> str:
    """Read pages in one line; by default those on what the runs say."""
    pages = pages or ("findings.md", "controls.md", "rates-and-lambda.md")
    return re.sub(r"\s+", " ", "".join((DOCS / page).read_text() for page in pages))


METRICS = {"cola": "matthews_correlation", "mrpc": "accuracy", "rte": "accuracy", "stsb": "pearson"}


HERE, REPEATED, DECAYED = (f"{place}/study/minilm" for place in ("runs", "controls/repeated", "controls/decayed"))


def study(method: str, task: str, rate: str, seeds: Iterable[int] = range(10), place: str = HERE) -> list[Any]:
    """Read the study's records of these seeds."""
    (folder,) = (ROOT / "results" / place / method / task).glob(f"lr-{rate}_*")
    return [json.loads((folder / f"seed-{seed}" / "run.json").read_text()) for seed in seeds]


def scores(method: str, task: str, rate: str, split: str, **which: Any) -> pd.DataFrame:
    """Return a method's points on a split: [epochs, seeds]."""
    points = {
        run["config"]["seed"]: [100 * epoch["metrics"][split][METRICS[task]] for epoch in run["epochs"]]
        for run in study(method, task, rate, **which)
    }
    return pd.DataFrame(points).rename(lambda epoch: epoch + 1)


held_out = partial(scores, split="held_out")


def validation(method: str, task: str, rate: str, **which: Any) -> Any:
    """Return a method's validation points at the kept epoch: [seeds]."""
    kept = [run["selections"]["held_out"]["metrics"]["validation"] for run in study(method, task, rate, **which)]
    return 100 * np.array([metrics[METRICS[task]] for metrics in kept])


def test_findings_say_what_the_study_measured() -> None:
    # The numbers of the text that no table of the report prints.
    text = told()
    cola = {"symlora": held_out("symlora", "cola", "8e-3"), "lora": held_out("lora", "cola", "1e-3")}
    means = {method: scores.mean(axis=1).round(1) for method, scores in cola.items()}
    eight = cola["symlora"].drop(columns=[3, 4]).mean(axis=1).round(1)
    best = {method: f"{scores.max().mean():.1f}" for method, scores in cola.items()}
    mrpc = [held_out(*point).mean(axis=1).round(1) for point in (("symlora", "mrpc", "8e-3"), ("lora", "mrpc", "2e-3"))]
    for said in (
        "goes {}, {}, {} in epochs 6, 8 and 10".format(*means["symlora"][[6, 8, 10]]),
        "LoRA's goes {}, {}, {}".format(*means["lora"][[6, 8, 10]]),
        "flat from epoch 8 on: {}, {}, {}".format(*eight[[8, 9, 10]]),
        f"held-out 30.6 and 35.1 became {best['symlora']} and {best['lora']}",
        "On MRPC** SymLoRA's goes {}, {}, {},".format(*mrpc[0][[6, 8, 10]]),
        "still a little up, and LoRA's {}, {}, {}".format(*mrpc[1][[6, 8, 10]]),
    ):
        assert said in text, said
    for page, head, place in (
        ("rates-and-lambda.md", "method, task", "study/minilm"),
        *(("rates-and-lambda.md", f"method, MPNet, {task}", "study_3/mpnet") for task in ("CoLA", "RTE")),
    ):
        for row in table(page, head):
            method, task = f"{row.pop(head)}, {head.split(', ')[-1]}".lower().replace("-", "").split(", ")[:2]
            points = (CONFIG_DIR / "best" / place / f"{method}-{task}.yaml").read_text()
            tried = re.findall(r"^#\s+([\d.]+)\s+16\s+([\d.]+)(  \*)?$", points, re.MULTILINE)
            bold = {lr: "**" * bool(best) for lr, _, best in tried}
            expected = {format_rate(float(lr)): f"{bold[lr]}{float(score):.1f}{bold[lr]}" for lr, score, _ in tried}
            assert {rate: cell for rate, cell in row.items() if cell != "–"} == expected
    mpnet: dict[str, Any] = {"seeds": range(5), "place": "runs/study_3/mpnet"}
    rates = (("symlora", "3e-3"), ("lora", "1e-3"))
    late = {
        (name, split): scores(name, "cola", rate, split, **mpnet).mean(axis=1).round(1)[[2, 3]]
        for name, rate in rates
        for split in ("held_out", "validation")
    }
    said = (
        "SymLoRA goes from {} to {} on CoLA's held-out slice. LoRA goes from {} to {}. On validation they go from {} "
        "to {} and from {} to {}."
    )
    order = [(name, split) for split in ("held_out", "validation") for name, _ in rates]
    assert said.format(*np.concatenate([late[place] for place in order])) in text
    slices = (held_out(name, "rte", "1e-3", **mpnet).mean(axis=1).round(1)[[2, 3]] for name, _ in rates)
    assert "they go from {} to {} and from {} to {}.".format(*np.concatenate([*slices])) in text
    five = np.subtract(*(validation(name, "cola", rate, **mpnet) for name, rate in rates))
    spread = float(five.std(ddof=1))
    reach = float(t.ppf(1 - 0.05 / 2 / 2, 4)) * spread / 5**0.5  # Holm's first step over two tasks
    assert f"(s = {spread:.1f}) only a mean difference beyond {reach:.1f} points" in text
    eight_seeds = [number for number in range(10) if number not in (3, 4)]
    sides = (validation("symlora", "cola", "8e-3"), validation("lora", "cola", "1e-3"))
    assert f"it is {span(*(side[eight_seeds] for side in sides))[:-1]}; looked at afterwards)" in text
    lora_stsb = held_out("lora", "stsb", "1e-3").mean(axis=1).round(1)
    assert "from {} in epoch 5 to {} in epoch 10".format(*lora_stsb[[5, 10]]) in text
    gain = {m: scores.loc[9:10].mean().mean() - scores.loc[7:8].mean().mean() for m, scores in cola.items()}
    assert f"with +{gain['symlora']:.1f}, and LoRA passes with +{gain['lora']:.1f}" in (DOCS / "study.md").read_text()


def test_findings_say_what_lambda_and_other_rates_do() -> None:
    text = told()
    chosen = [("cola", "8e-3"), ("mrpc", "8e-3"), ("stsb", "1.6e-2")]
    runs = ROOT / "results/runs/study/minilm/symlora"
    norms = {
        task: pd.concat(map(pd.read_parquet, runs.glob(f"{task}/lr-{rate}_*/seed-?/norms.parquet")))
        for task, rate in chosen
    }
    lambdas = pd.concat(norms.values())["lambda"].to_numpy()
    assert (
        f"Of {len(lambdas)} values (three tasks" in text
        and f"negative ({lambdas[lambdas < 0].item():.2f}, seed 3" in text
    )
    below = [int((np.abs(lambdas) < bound).sum()) for bound in (0.1, 0.3)]
    assert below == [2, 5] and "two are below 0.1 in size" in text and "Three more are below 0.3" in text
    last = norms["stsb"].query("layer == 5 and projection == 'query'")["lambda"]
    assert f"{last.mean():.2f} ({last.min():.2f} to {last.max():.2f} over the seeds)" in text
    mine, other = (
        [validation(method, "cola", rate, seeds=(100, 101)).mean() for rate in rates]
        for method, rates in (("symlora", ("2e-3", "4e-3", "8e-3")), ("lora", ("5e-4", "1e-3", "2e-3")))
    )
    mpnet = pd.read_csv(ROOT / "results/figures/study_3-mpnet/companion.csv").query("method == 'symlora'")
    for task, own in mpnet.groupby("task"):
        low, high, alone = own["lambda"].min(), own["lambda"].max(), own["decay_to_zero"].iloc[0]
        on = TASKS[str(task)]
        assert f"{low:.2f} to {high:.2f} on {on}, where decay alone would give {alone:.2f}" in text
    gaps = np.subtract.outer(mine, other)
    assert f"lies between {gaps.max():.1f} and {gaps.min():.1f}" in text


def span(first: Any, second: Any) -> str:
    """Print a paired difference with its interval, as the pages do."""
    found = paired_interval(np.asarray(first), np.asarray(second))
    return f"{found.estimate:.1f} ({found.low:.1f} to {found.high:.1f})"


PROTOCOLS = ("study", "study_20")


def after(task: str, rates: dict[str, str]) -> dict[tuple[str, str], Any]:
    """Return the points of seeds 0 to 4 by method and protocol."""
    return {
        (method, name): validation(method, task, rate, seeds=range(5), place=f"runs/{name}/minilm")
        for method, rate in rates.items()
        for name in PROTOCOLS
    }


def test_pages_say_what_20_epochs_change() -> None:
    text, rules, readme = map(told, ("findings.md", "study.md", "../README.md"))
    chosen = {
        "cola": {"symlora": "8e-3", "lora": "1e-3"},
        "mrpc": {"symlora": "8e-3", "lora": "2e-3"},
        "stsb": {"symlora": "1.6e-2", "lora": "1e-3"},
    }
    kept = {task: after(task, rates) for task, rates in chosen.items()}
    apart = {
        task: {name: points["symlora", name] - points["lora", name] for name in PROTOCOLS}
        for task, points in kept.items()
    }
    for (task, points), row in zip(kept.items(), table("findings.md", "20 epochs, MiniLM"), strict=True):
        cells = []
        for method in ("symlora", "lora"):
            early, late = (points[method, name] for name in PROTOCOLS)
            cells += [f"{early.mean():.1f} → {late.mean():.1f}", span(late, early)]
            assert (late.mean() - early.mean() > 1) == (method == "symlora" and task != "stsb")  # rule 10's remark
        cells += [span(points["symlora", name], points["lora", name]) for name in PROTOCOLS]
        assert list(row.values())[1:] == cells
    twenty: dict[str, Any] = {"seeds": range(5), "place": "runs/study_20/minilm"}
    ended, gaps, held = {}, {}, {}
    for task, rates in chosen.items():
        sides = [scores(name, task, rate, "validation", **twenty) for name, rate in rates.items()]
        before = [scores(name, task, rate, "validation", seeds=range(5)).loc[10] for name, rate in rates.items()]
        gaps[task] = (sides[0] - sides[1]).mean(axis=1)
        ended[task] = f"from {(before[0] - before[1]).mean():.1f} to {span(*(side.loc[20] for side in sides))}"
        kinds = (held_out(name, task, rate, **twenty).mean(axis=1) for name, rate in rates.items())
        held[task] = np.concatenate([kind[[11, 20]] for kind in kinds])
    short = [held_out(name, "mrpc", rate, seeds=range(5)).mean(axis=1)[10] for name, rate in chosen["mrpc"].items()]
    changes = {task: span(gap["study_20"], gap["study"]) for task, gap in apart.items()}
    p = [ttest_1samp(apart[task]["study"], 0.0).pvalue for task in ("cola", "mrpc")]
    both = {
        task: [points[name, "study_20"] - points[name, "study"] for name in ("symlora", "lora")]
        for task, points in kept.items()
    }
    lora_gain = paired_interval(kept["stsb"]["lora", "study_20"], kept["stsb"]["lora", "study"])
    lead = paired_interval(kept["stsb"]["lora", "study_20"], kept["stsb"]["symlora", "study_20"])
    ten = validation("symlora", "cola", "8e-3")
    again = validation("symlora", "cola", "8e-3", place=REPEATED)
    for said in (
        f"gain of {lora_gain.high:.1f} for LoRA, or a lead of {lead.high:.1f}, is",
        f"CoLA's difference changes by {changes['cola']}, MRPC's by {changes['mrpc']}:",
        f"(p {p[0]:.3f} and {p[1]:.3f} before Holm)",
        f"its difference goes only {ended['mrpc']}, and",
        f"in each of epochs 11 to 20 its mean is {gaps['mrpc'][10:].max():.1f} or",
        f"CoLA's goes {ended['cola']}, STS-B's {ended['stsb'][:-1]}; all looked at",
        "SymLoRA has {:.1f} in epoch 11 and {:.1f} in epoch 20, LoRA {:.1f} and {:.1f}.".format(*held["cola"]),
        f"at {held['mrpc'][1]:.1f}, as after 10 epochs ({short[0]:.1f}), and",
        f"LoRA at {held['mrpc'][3]:.1f} ({short[1]:.1f})",
        f"On CoLA {-both['cola'][1].mean():.1f} of the {np.subtract(*both['cola']).mean():.1f} points are LoRA's fall",
        f"over seeds 0 to 4 is {again[:5].mean():.1f}, above the {kept['cola']['symlora', 'study_20'].mean():.1f}",
        f"alone moved SymLoRA by {span(again, ten)[:-1]}; ten seeds)",
    ):
        assert said in text, said
    ways = {}
    for task, points in kept.items():
        at_10, at_20 = (span(points["symlora", name], points["lora", name]) for name in PROTOCOLS)
        ways[task] = f"from {at_10.split()[0]} to {at_20}"
    last = ended["mrpc"].split()[3]
    for said in (
        f"LoRA goes {ways['mrpc'].replace('(', '(95 % ')} on MRPC, but only to {last} in the last epoch;",
        f"{ways['cola']} on CoLA, nearly half",
        f"on STS-B {ways['stsb']}.",
    ):
        assert said in readme, said
    first = kept["cola"]["symlora", "study"]
    assert f"at 10 epochs is {first.mean():.1f}; over all ten seeds it is {ten.mean():.1f}." in rules
    best = CONFIG_DIR / "best"
    for copy_ in (best / "study_20/minilm").iterdir():  # the points chosen for 10 epochs
        assert copy_.read_text() == (best / "study/minilm" / copy_.name).read_text()


def test_controls_are_judged_by_their_rules() -> None:
    criteria = read_yaml(CONFIG_DIR / "report.yaml", Criteria)
    chosen = choose(committed().runs, read_best(CONFIG_DIR / "best"))
    names = ("symlora", "lora_r4", "symlora_no_lambda", "lora")
    mine, control, bare, lora = (chosen["minilm", "study", "cola", name] for name in names)
    found, without, unplanned = (compare(*pair, criteria) for pair in ((mine, control), (mine, bare), (control, lora)))
    assert found is not None and without is not None and unplanned is not None
    planned = (found, without)
    assert all(each.seeds == tuple(range(10)) for each in planned) and found.obstacle == ""
    p: list[Any] = [1.0 if each.obstacle else each.p_difference for each in planned]  # rule 8
    tost: list[Any] = [1.0 if each.obstacle else each.p_equivalence for each in planned]
    decided = decide([each.difference.estimate for each in planned], p, tost)
    rows = table("findings.md", "control, MiniLM, CoLA")
    for row, rate, each, decision in zip(rows, ("1e-3", "8e-3"), planned, decided, strict=True):
        bounds = span(*each.scores).partition("(")[2][:-1]
        verdict = f"none ({each.obstacle})" if each.obstacle else decision.verdict
        assert list(row.values())[1:] == [rate, f"{each.scores[1].mean():.1f}", bounds, verdict]
    decision, apart = decided[0], found.difference
    assert found.both is not None and (found.scores[0] < found.scores[1]).all()
    tried = {name: (CONFIG_DIR / f"best/study/minilm/{name}-cola.yaml").read_text() for name in names[1:3]}
    rates = {name: re.findall(r"^#\s+([\d.]+)\s+16\s+([\d.]+)", held, re.MULTILINE) for name, held in tried.items()}
    listed = [f"{float(score) + 1e-9:.1f} ({format_rate(float(lr))})" for lr, score in rates["lora_r4"]]
    bare_rates = [f"{float(score):.1f}" for _, score in rates["symlora_no_lambda"]]
    again = validation("symlora", "cola", "8e-3", place=REPEATED)
    change, there = (span(again, scores) for scores in found.scores)
    others, bare_scores = np.arange(10) != 4, without.scores[1]
    nine, nine_again = (span(side[others], bare_scores[others]) for side in (found.scores[0], again))
    for said in (
        f"mean difference is {apart.estimate:.1f} points; all ten seeds favour LoRA of rank 4",
        f"is {p[0]:.3f}, and {decision.p_difference:.3f} after Holm",
        f"seeds and rows the interval is {found.both.low:.1f} to {found.both.high:.1f}, so",
        f"{', '.join(listed[:-1])} and {listed[-1]}",
        f"is then {again.mean():.1f}, a change of {change};",
        f"gains {again[3] - found.scores[0][3]:.1f}.",
        f"is then {there}: the same sign in all ten",
        f"repeated](controls.md) on rank 4's it is {there}",
        f"{', '.join(bare_rates[:4])}, {bare_rates[4]} (8e-3) and {bare_rates[5]}.",
        f"difference of {without.difference.estimate:.1f} rests on that seed: the other nine give {nine[:-1]}; looked",
        f"it is {span(again, bare_scores)}, and {nine_again} without seed 4.",
        f"planned: {span(*unplanned.scores)}",
    ):
        assert said in told(), said
    assert (again < found.scores[1]).all()
    short = f"{apart.estimate:.1f} points ({apart.low:.1f} to {apart.high:.1f}; ten pairs), and"
    assert f"{short} {there.split()[0]} on that control's" in told("../README.md")
    failed = list((ROOT / "results/controls/failed").rglob("run.json"))
    assert [json.loads(path.read_text())["status"] for path in failed] == ["failed"] * 12


def test_further_controls_are_judged_by_their_rules() -> None:
    criteria, text = read_yaml(CONFIG_DIR / "report.yaml", Criteria), told()
    chosen = choose(committed().runs, read_best(CONFIG_DIR / "best"))
    mine = choose(collect(ROOT / "results/controls/repeated").runs, {})["minilm", "study", "cola", "symlora"]
    controls = [chosen["minilm", "study", "cola", name] for name in ("singlora", "symlora_orthonormal")]
    pairs = [compare(mine, control, criteria) for control in controls]
    found = [pair for pair in pairs if pair is not None and not pair.obstacle and pair.seeds == tuple(range(10))]
    p, tost = ([getattr(pair, name) for pair in found] + [1.0] for name in ("p_difference", "p_equivalence"))
    decided = decide([*(pair.difference.estimate for pair in found), 0.0], p, tost)  # `full` is not finished
    rows, first = table("controls.md", "further control, MiniLM, CoLA"), validation("symlora", "cola", "8e-3")
    for row, rate, pair, decision in zip(rows, ("1e-3", "2e-3"), found, decided[:2], strict=True):
        assert pair.both is not None
        bounds, both = span(*pair.scores).partition("(")[2][:-1], f"{pair.both.low:.1f} to {pair.both.high:.1f}"
        values = [rate, f"{pair.scores[1].mean():.1f}", bounds, f"{decision.p_difference:.3f}", decision.verdict, both]
        assert list(row.values())[1:] == values
        assert f"{span(first, pair.scores[1])[:-1]}" in text
    for name in ("singlora", "symlora_orthonormal"):
        held = (CONFIG_DIR / f"best/study/minilm/{name}-cola.yaml").read_text()
        scores = [
            f"{float(score) + 1e-9:.1f}" for score in re.findall(r"^#\s+[\d.]+\s+16\s+([\d.]+)", held, re.MULTILINE)
        ]
        assert f"{scores[0]} (5e-4), {', '.join(scores[1:5])} and {scores[5]} (1.6e-2)" in text
    assert f"is {span(*found[0].scores)}" in text and f"it is {span(*found[1].scores)}" in text
    assert (found[1].scores[0] > found[1].scores[1]).all()


def test_controls_say_what_decay_does_to_lambda() -> None:
    lambdas, text = {}, told()
    for kind, place in (("no decay", REPEATED), ("decay", DECAYED)):
        folders = (ROOT / "results" / place / "symlora/cola").glob("*/seed-?/norms.parquet")
        lambdas[kind] = pd.concat([pd.read_parquet(path).assign(seed=path.parent.name) for path in folders])
        assert len(lambdas[kind]) == 120
    small = {kind: int((norms["lambda"].abs() < 0.3).sum()) for kind, norms in lambdas.items()}
    means = {kind: norms.groupby(["projection", "layer"])["lambda"].mean() for kind, norms in lambdas.items()}
    for row in table("controls.md", "λ on CoLA, mean of ten seeds"):
        projection, kind = row.pop("λ on CoLA, mean of ten seeds").split(", ")
        assert list(row.values()) == [f"{value:.2f}" for value in means[kind][projection]]
    drawn = pd.read_csv(ROOT / "results/figures/study-minilm/companion.csv").query("method == 'symlora'")
    alone = drawn.groupby("task")["decay_to_zero"].mean()  # the same in every layer
    assert "be {cola:.2f} in every layer on CoLA, {mrpc:.2f} on MRPC and {stsb:.2f} on STS-B".format(**alone) in text
    left = []  # at the kept epochs of the runs with decay
    for path in (ROOT / "results" / DECAYED / "symlora/cola").glob("*/seed-?/run.json"):
        record = json.loads(path.read_text())
        kept = record["selections"]["held_out"]["epoch"]
        left.append(decay_to_zero(record["config"]["train"], record["data"]["train"]["rows"], kept))
    assert (
        f"what decay alone gives, {np.mean(left):.2f}" in text and f"decay alone would give {np.mean(left):.2f}" in text
    )
    assert all(mean.min() > np.mean(left) for mean in means.values())
    lowest, highest = means["decay"].min(), means["decay"].max()
    assert text.count(f"{lowest:.2f} to {highest:.2f}") == 2  # findings.md and rates-and-lambda.md
    with_decay, without = (validation("symlora", "cola", "8e-3", place=p) for p in (DECAYED, REPEATED))
    for said in (
        f"Of 120 values {small['decay']} are below 0.3 in size with decay, {small['no decay']} without",
        f"with decay is {with_decay.mean():.1f}, without {without.mean():.1f}: a",
        f"a difference of {span(with_decay, without)}",
    ):
        assert said in text, said
