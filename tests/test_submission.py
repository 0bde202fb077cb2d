"""Check the GLUE server's zip against rows and words typed here."""

import json
import os
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from report_runs import COMMON, edit_run, write_run

from symlora.cli import main
from symlora.config.compose import compose
from symlora.data.splits import load_splits
from symlora.errors import SymloraError
from symlora.metrics.functions import compute
from symlora.report.choice import choose
from symlora.report.collect import collect
from symlora.report.leaderboard import load_leaderboard
from symlora.runner.record import write_predictions
from symlora.store.folder import recorded_config, run_folder, seal
from symlora.submission.files import LINES, files
from symlora.submission.gather import as_text, gather
from symlora.submission.write import check, write

NAMES = ("smoke", "minilm", "symlora")
# Rows and words of the server's eleven files, typed from the lists of other projects, not from configs/task.
NLI, TWO = {"entailment", "neutral", "contradiction"}, {"entailment", "not_entailment"}
SERVER: dict[str, tuple[int, set[str]]] = {
    "CoLA.tsv": (1063, {"0", "1"}),
    "SST-2.tsv": (1821, {"0", "1"}),
    "MRPC.tsv": (1725, {"0", "1"}),
    "STS-B.tsv": (1379, set()),
    "QQP.tsv": (390_965, {"0", "1"}),
    "MNLI-m.tsv": (9796, NLI),
    "MNLI-mm.tsv": (9847, NLI),
    "QNLI.tsv": (5463, TWO),
    "RTE.tsv": (3000, TWO),
    "WNLI.tsv": (146, {"0", "1"}),
    "AX.tsv": (1104, NLI),
}
TASKS = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")


def make_run(root: Path, task: str = "rte", *overrides: str, test: bool = True) -> Path:
    """Write a run folder with the real numbers of rows; not sealed."""
    config = compose(f"task={task}", "model=minilm", "protocol=smoke", f"results_dir={root}", *overrides)
    config.predict_test = test
    facts, rule, generator = config.task, config.protocol.selection, np.random.default_rng(config.seed)
    found, metrics = {}, {}
    for split in (*facts.validation, *(facts.test if test else ())):
        rows, known = facts.splits[split], split in facts.validation
        logits = generator.uniform(-1, 6, (rows, len(facts.labels) or 1)).astype(np.float32)  # some scores are clipped
        predicted = logits.argmax(1) if facts.labels else logits[:, 0]
        labels = np.roll(predicted, rows // 5) if known else np.full_like(predicted, -1)
        for name in (rule, "last") if known else (rule,):
            found[name, split] = {"idx": np.arange(rows), "label": labels, "logits": logits}
        if known:
            metrics[split] = compute(facts.metrics, predicted, labels)
    folder = run_folder(config)
    folder.mkdir(parents=True)
    write_predictions(folder / "predictions.parquet", found)
    split = facts.validation[0]
    score = {"metric": facts.score, "split": split, "selection": rule, "value": metrics[split][facts.score]}
    record = {
        "config_hash": folder.parent.name.rpartition("_")[2],
        "config": recorded_config(config),
        "data": {name: {"rows": facts.splits[name]} for name in facts.validation},
        "selections": {name: {"epoch": 1, "metrics": metrics} for name in (rule, "last")},
        "score": score,
    }
    seal(folder, COMMON | record)
    return folder


def zip_of(path: Path, *entries: tuple[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


@pytest.fixture(scope="module")
def all_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    for task in TASKS:
        make_run(root, task)
    return root


@pytest.fixture(scope="module")
def whole(all_runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, checked = write(gather(all_runs, *NAMES), tmp_path_factory.mktemp("out"), "-".join(NAMES))
    assert checked.complete and checked.lines == LINES and not checked.wrong
    return path


def test_rows_words_and_lines_are_the_servers() -> None:
    assert {file.name: (file.rows, set(file.words)) for file in files()} == SERVER
    assert sum(rows + 1 for rows, _ in SERVER.values()) == LINES


def test_a_zip_of_all_runs_holds_what_they_predicted(whole: Path, all_runs: Path) -> None:
    assert whole.name == "smoke-minilm-symlora.zip"
    with zipfile.ZipFile(whole) as archive:
        assert sorted(archive.namelist()) == sorted(SERVER)
        for file in files():
            with archive.open(file.name) as content:
                table = pd.read_csv(content, sep="\t", dtype={"prediction": str})
            rows, words = SERVER[file.name]
            assert list(table.columns) == ["index", "prediction"] and table["index"].tolist() == list(range(rows))
            folder = next(all_runs.glob(f"*/*/*/{file.task}/*/seed-0"), None)
            if file.name == "WNLI.tsv":
                assert folder is None and set(table.prediction) == {"0"}
                continue
            assert folder is not None
            stored = pd.read_parquet(folder / "predictions.parquet")
            expected = stored[stored.split == file.split].sort_values("idx").prediction.to_numpy()
            if not words:
                assert expected.min() < 0 and expected.max() > 5  # or clipping is not seen
                np.testing.assert_allclose(table.prediction.astype(float), expected.clip(0, 5), atol=5.1e-4)
                assert table.prediction.str.fullmatch(r"[0-5]\.\d{3}").all()
            else:
                names = {2: ["entailment", "not_entailment"], 3: ["entailment", "neutral", "contradiction"]}
                said = names[len(words)] if "entailment" in words else ["0", "1"]
                assert table.prediction.tolist() == [said[number] for number in expected]
    beside = json.loads(whole.with_suffix(".json").read_text())
    runs = {entry["file"]: entry["run"] for entry in beside["files"]}
    assert runs["AX.tsv"] == runs["MNLI-m.tsv"]
    assert runs["MNLI-m.tsv"]["folder"].startswith("smoke/minilm/symlora/mnli/")
    assert runs["WNLI.tsv"] is None and str(all_runs) not in whole.with_suffix(".json").read_text()


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    make_run(tmp_path / "runs")
    first, again = (write(gather(tmp_path / "runs", *NAMES), tmp_path / name, name)[0] for name in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()


def test_the_command_exits_with_0_3_and_1(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> tuple[int, str]:
        status = 0
        try:
            main(["submission", *arguments])
        except SystemExit as ended:
            status = int(str(ended.code))
        return status, "".join(capsys.readouterr())

    assert run("--check", str(whole))[0] == 0
    make_run(tmp_path / "runs", "rte")
    some = ["--results-dir", str(tmp_path / "runs"), "--out", str(tmp_path), "--protocol", "smoke", "--model", "minilm"]
    status, said = run(*some)
    missing = "CoLA.tsv, SST-2.tsv, MRPC.tsv, STS-B.tsv, QQP.tsv, MNLI-m.tsv, MNLI-mm.tsv, QNLI.tsv, AX.tsv"
    assert status == 3 and f"missing: {missing}\n" in said and "CANNOT be uploaded" in said
    assert [path.name for path in tmp_path.glob("*.zip")] == ["smoke-minilm-symlora-partial.zip"]
    assert run("--check", str(tmp_path / "smoke-minilm-symlora-partial.zip"))[0] == 3
    assert "is an older one" not in said
    (tmp_path / "smoke-minilm-symlora.zip").touch()
    assert "smoke-minilm-symlora.zip next to it is an older one" in run(*some)[1]
    (tmp_path / "smoke-minilm-symlora.zip").unlink()
    bad = zip_of(tmp_path / "bad.zip", ("WNLI.tsv", WNLI.replace("\t0", "\t2")))
    status, said = run("--check", str(bad))
    assert status == 1 and "wrong: WNLI.tsv: row 0 predicts '2'; allowed: 0 or 1." in said


@pytest.mark.parametrize(
    ("seeds", "taken"),
    [
        ([{"right": 70}, {"right": 80}, {"right": 80}], 1),  # the lowest of the best
        ([{"right": 70, "held_out": 0.9}, {"right": 80, "held_out": 0.6}], 0),  # the held-out slice decides
        ([{"right": 60}, {"status": "failed"}], 0),
    ],
)
def test_the_best_seed_of_the_chosen_configuration_is_taken(
    tmp_path: Path, seeds: list[dict[str, Any]], taken: int
) -> None:
    for seed, given in enumerate(seeds):
        write_run(tmp_path, seed=seed, **given)
    write_run(tmp_path, lr=9e-3, right=100, held_out=seeds[0].get("held_out"))  # another point of the grid, fewer seeds
    chosen = choose(collect(tmp_path).runs, {})
    best = chosen["minilm", "short", "rte", "symlora"].best
    assert best is not None and best["seed"] == taken and best["lr"] == 4e-3
    assert chosen["minilm", "short", "cola", "symlora"].best is None


def test_a_run_without_test_predictions_says_the_command_that_makes_them(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "rte", "seed=2", "train.lr=3e-3", test=False)
    part = next(part for part in gather(tmp_path, *NAMES) if part.file.name == "RTE.tsv")
    assert not part.predictions
    command = re.search(r"`make glue (.*)`", part.source)
    assert command is not None
    given = dict(word.split("=", 1) for word in shlex.split(command[1]))
    settings = [f"{key.lower()}={value}" for key, value in given.items() if key != "ARGS"]
    again = compose(*settings, *given["ARGS"].split())
    assert run_folder(again) == folder and again.predict_test
    edit_run(folder, lambda record: record["config"].update(init_from="seed-3"))
    part = next(part for part in gather(tmp_path, *NAMES) if part.file.name == "RTE.tsv")
    assert "init_from=<path of seed-3>" in part.source


def test_old_mnli_runs_lack_ax_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "mnli")
    table = pd.read_parquet(folder / "predictions.parquet")
    table[table.split != "ax"].to_parquet(folder / "predictions.parquet")
    edit_run(folder)
    parts = {part.file.name: part for part in gather(tmp_path, *NAMES)}
    assert parts["MNLI-m.tsv"].predictions and parts["MNLI-mm.tsv"].predictions and not parts["AX.tsv"].predictions
    assert "no predictions on ax" in parts["AX.tsv"].source and "force=true" in parts["AX.tsv"].source


SCORES = pd.DataFrame({"idx": np.arange(1379), "prediction": np.linspace(-1, 6, 1379)})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("STS-B.tsv", lambda t: t.iloc[:-1], "1,378 predictions; .* 1 are missing, 0 appear twice"),
        ("STS-B.tsv", lambda t: pd.concat([t, t.iloc[5:6]]).sort_values("idx"), "0 are missing, 1 appear twice"),
        ("STS-B.tsv", lambda t: t.replace({"idx": {7: 9999}}).sort_values("idx"), "1 are missing, .* 1 are not rows"),
        ("STS-B.tsv", lambda t: t.assign(prediction=t.prediction.where(t.idx != 3)), "row 3 is nan, not a number"),
        ("STS-B.tsv", lambda t: t.assign(prediction="much"), r"row 0 is much, .*\(1,379 such rows\)"),
        ("WNLI.tsv", lambda t: t.iloc[:146].assign(prediction=2), "row 0 is 2, not a class from 0 to 1"),
        ("WNLI.tsv", lambda t: t.iloc[:146].assign(prediction=0.5), "row 0 is 0.5, not a class"),
        ("WNLI.tsv", lambda t: t.iloc[:146].assign(prediction=None), "row 0 is None, not a class"),
    ],
)
def test_what_is_no_prediction_is_refused(name: str, change: Callable[[Any], Any], says: str) -> None:
    file = next(file for file in files() if file.name == name)
    with pytest.raises(SymloraError, match=f"^here: .*{says}"):
        as_text(file, change(SCORES), "here")


def nan_in_test(folder: Path) -> None:
    table = pd.read_parquet(folder / "predictions.parquet")
    table["prediction"] = table["prediction"].where((table.split != "test") | (table.idx != 17))
    table.to_parquet(folder / "predictions.parquet")
    edit_run(folder)


def torn(folder: Path) -> None:
    os.truncate(folder / "predictions.parquet", 999)
    edit_run(folder)


@pytest.mark.parametrize(
    ("task", "damage", "says"),
    [
        ("stsb", lambda folder: os.truncate(folder / "predictions.parquet", 999), "seed-0: it is damaged"),
        ("stsb", torn, r"stsb/.*/seed-0: predictions.parquet cannot be read .* train that run again"),
        ("rte", nan_in_test, "predictions.parquet, split test: the prediction of row 17 is nan"),  # classes are floats
        ("rte", lambda folder: (folder / "run.json").unlink(), "it has no run.json"),
    ],
)
def test_a_broken_run_stops_it_and_nothing_is_written(
    tmp_path: Path, task: str, damage: Callable[[Path], Any], says: str
) -> None:
    damage(make_run(tmp_path / "runs", task))
    arguments = ["--results-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), "--protocol", "smoke"]
    with pytest.raises(SystemExit, match=says):
        main(["submission", *arguments, "--model", "minilm"])
    assert not (tmp_path / "out").exists()


def test_no_runs_and_no_place_are_one_message_each(tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match="No run of protocol smoke, model minilm, method symlora"):
        gather(tmp_path, *NAMES)
    make_run(tmp_path / "runs", "rte", test=False)
    (tmp_path / "out").touch()
    with pytest.raises(SymloraError, match="out/x-partial.zip cannot be written"):
        write(gather(tmp_path / "runs", *NAMES), tmp_path / "out", "x")
    with pytest.raises(SymloraError, match=r"protocol nope, .*; there is: smoke/minilm/symlora\.$"):  # no advice
        gather(tmp_path / "runs", "nope", *NAMES[1:])
    with pytest.raises(SymloraError, match=r"method lora .*there is: .*METHOD=lora .*results_dir=.* makes one\.$"):
        gather(tmp_path / "runs", *NAMES[:2], "lora")
    (tmp_path / "place" / "x-partial.zip").mkdir(parents=True)
    with pytest.raises(SymloraError, match="x-partial.zip cannot be written"):
        write(gather(tmp_path / "runs", *NAMES), tmp_path / "place", "x")
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["x-partial.zip"]  # nothing else


WNLI = "index\tprediction\n" + "".join(f"{row}\t0\n" for row in range(146))
STSB = "index\tprediction\n" + "".join(f"{row}\t2.500\n" for row in range(1379))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("WNLI.tsv", WNLI, ""),
        ("STS-B.tsv", STSB, ""),
        ("glue/WNLI.tsv", WNLI, "glue/WNLI.tsv is in a folder"),
        ("glue/", "", "glue/ is in a folder, or is one"),
        ("wnli.tsv", WNLI, "wnli.tsv is none of the eleven files"),
        ("WNLI.tsv", WNLI.replace("index", "id"), "the header is 'id"),
        ("WNLI.tsv", "\ufeff" + WNLI, "byte 0 is not ASCII"),
        ("WNLI.tsv", WNLI.replace("\n", "\r\n"), "the header is"),
        ("WNLI.tsv", WNLI[:-1], "may be cut off"),
        ("WNLI.tsv", WNLI[:-6], "145 rows, the test split has 146"),
        ("WNLI.tsv", WNLI.replace("\n9\t", "\n10\t"), "row 9 begins with '10'"),
        ("WNLI.tsv", WNLI.replace("5\t0", "5\tnot_entailment", 1), "row 5 predicts 'not_entailment'; allowed: 0 or 1"),
        ("WNLI.tsv", WNLI.replace("5\t0", "5\t", 1), "row 5 predicts ''"),
        ("STS-B.tsv", STSB.replace("8\t2.500", "8\t5.001", 1), "row 8 predicts '5.001'; allowed: a number from 0 to 5"),
        ("STS-B.tsv", STSB.replace("8\t2.500", "8\tnan", 1), "row 8 predicts 'nan'"),
        ("STS-B.tsv", STSB.replace("8\t2.500", "8\t1e0", 1), "row 8 predicts '1e0'"),
    ],
)
def test_what_the_server_refuses_is_found(tmp_path: Path, name: str, content: str, says: str) -> None:
    checked = check(zip_of(tmp_path / "a.zip", (name, content)))
    assert not checked.complete and len(checked.missing) == (10 if name in SERVER else 11)
    assert (len(checked.wrong) == 1 and says in checked.wrong[0]) if says else checked.good == (name,)


def test_a_zip_that_is_none_or_holds_a_file_twice(tmp_path: Path) -> None:
    with pytest.raises(SymloraError, match="does not exist"):
        check(tmp_path / "a.zip")
    (tmp_path / "a.zip").write_text("index\tprediction")
    with pytest.raises(SymloraError, match="cannot be read as a zip"):
        check(tmp_path / "a.zip")
    with pytest.warns(UserWarning, match="Duplicate name"):
        zip_of(tmp_path / "b.zip", ("WNLI.tsv", WNLI), ("WNLI.tsv", WNLI))
    assert check(tmp_path / "b.zip").wrong == ("the zip holds WNLI.tsv 2 times.",)
    damaged = bytearray(zip_of(tmp_path / "c.zip", ("WNLI.tsv", WNLI)).read_bytes())
    damaged[100] ^= 1
    (tmp_path / "c.zip").write_bytes(damaged)
    with pytest.raises(SymloraError, match="CRC"):
        check(tmp_path / "c.zip")


def test_a_folder_without_ax_says_where_it_belongs(tmp_path: Path) -> None:
    (tmp_path / "ax").mkdir()
    config = compose("task=mnli", f"data.dir={tmp_path}")
    with pytest.raises(SymloraError, match=r"ax/test-00000-of-00001.parquet is missing .*\(1,104 rows expected\)"):
        load_splits(config.task, config.data, ["ax"])


def test_the_leaderboards_template_is_one_that_the_report_reads(tmp_path: Path) -> None:
    text = (ROOT / "results" / "leaderboard" / "README.md").read_text()
    (tmp_path / "a.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    scores, problems = load_leaderboard(tmp_path)
    assert list(scores) == [("paper", "roberta-base", "symlora", "rte")] and not problems
