"""Every configuration composes, carries the published recipe, and names a run; what is wrong is told in one message."""

import itertools
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TinyFactory, run_program

from symlora.config.compose import CONFIG_DIR, compose
from symlora.config.identity import config_hash, identity, slug
from symlora.config.overrides import check_words
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.model.source import ModelSource, weights_sha256
from symlora.store.folder import run_folder
from symlora.sweep.grid import expand


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def test_every_method_protocol_task_and_model_composes() -> None:
    """In turn: each pair of everything would take minutes."""
    models, protocols = (itertools.cycle(sorted(set(options(g)) - {"local"})) for g in ("model", "protocol"))
    # 7 protocols and 9 tasks: in turn, they meet in different pairs.
    for method, protocol, task, model in zip(
        options("method"), protocols, itertools.cycle(sorted(set(options("task")) - {"custom"})), models, strict=False
    ):
        config = compose(f"task={task}", f"method={method}", f"model={model}", f"protocol={protocol}")
        assert (config.task.name, config.model.name, config.protocol.name) == (task, model, protocol)
        assert config.method.name == method
        assert type(config.task.splits) is dict and config.protocol.recipe == {}  # plain, for W&B and other processes
        assert set(config.task.validation + config.task.test) < set(config.task.splits)


# LoRA paper (arXiv 2106.09685), table 9, RoBERTa-base: learning rate, batch size, epochs.
LORA_TABLE_9 = {
    **{"mnli": (5e-4, 16, 30), "sst2": (5e-4, 16, 60), "mrpc": (4e-4, 16, 30), "cola": (4e-4, 32, 80)},
    **{"qnli": (4e-4, 32, 25), "qqp": (5e-4, 16, 25), "rte": (5e-4, 32, 80), "stsb": (4e-4, 16, 40)},
}
# The same table, RoBERTa-large at length 128 (marked †); batch 4 for all.
LORA_LARGE = {
    **{"mnli": (3e-4, 10), "sst2": (4e-4, 10), "mrpc": (3e-4, 20), "cola": (2e-4, 20)},
    **{"qnli": (2e-4, 10), "qqp": (3e-4, 20), "rte": (4e-4, 20), "stsb": (2e-4, 10)},
}


@pytest.mark.parametrize("task", LORA_TABLE_9)
@pytest.mark.parametrize("protocol", ["paper", "holdout"])
def test_the_paper_protocol_is_loras_recipe_at_length_128(task: str, protocol: str) -> None:
    config = compose(f"task={task}", f"protocol={protocol}")
    assert (config.train.lr, config.train.batch_size, config.train.epochs) == LORA_TABLE_9[task]
    assert (config.train.warmup_ratio, config.train.weight_decay, config.data.max_length) == (0.06, 0.1, 128)
    assert (config.method.peft_config["r"], config.method.peft_config["alpha"]) == (8, 8)
    assert config.method.lambda_decay == "none"
    large = compose(f"task={task}", f"protocol={protocol}", "model=roberta-large").train
    assert ((large.lr, large.epochs), large.batch_size) == (LORA_LARGE[task], 4)


def test_identity_leaves_out_seed_and_machine_and_nothing_else() -> None:
    base = compose("task=rte")
    same = compose(
        *("task=rte", "seed=3", "results_dir=/elsewhere", "data.dir=/data", "device=cpu", "logger=wandb", "force=true"),
        *("train.gradient_accumulation_steps=4", "train.compile=on"),
    )
    assert config_hash(base) == config_hash(same)
    others = ("train.lr=1e-3", "method.peft_config.r=4", "protocol.held_out=0.1", "data.max_length=64")
    for other in (*others, "precision=fp32", "train.patience=3"):
        assert config_hash(base) != config_hash(compose("task=rte", other)), other
    assert "seed" not in identity(base) and "lr" in identity(base)["train"]


def test_identity_of_an_encoder_is_all_that_is_loaded(
    tiny: TinyFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModel

    monkeypatch.chdir(tmp_path)
    for seed, name in ((0, "enc"), (1, "other")):
        AutoModel.from_pretrained(tiny("bert", seed=seed)).save_pretrained(name, max_shard_size="20KB")
    shards = sorted(Path("enc").glob("model-*.safetensors"))
    assert len(shards) > 2

    def name_of(path: str = "enc") -> str:
        return config_hash(compose("task=rte", "model=local", "model.name=m", f"model.path='{path}'"))

    seen, found = [name_of()], weights_sha256(ModelSource("enc", None))
    assert seen[0] == name_of("./enc") == name_of(str(tmp_path / "enc"))
    Path("enc/README.md").write_text("x")
    assert name_of() == seen[0]
    shutil.copy(Path("other") / shards[-1].name, shards[-1])
    assert found != weights_sha256(ModelSource("enc", None)) is not None
    for file in ("config.json", "tokenizer_config.json", "vocab.txt", "spm.model"):
        seen.append(name_of())
        with open(Path("enc", file), "a") as beside:
            beside.write("\n")
    assert len({*seen, name_of()}) == 6


PATHS = ("model.path", "init_from", "data.dir", "data.cache_dir", "results_dir")


def paths(config: Config) -> list[str | None]:
    return [config.model.path, config.init_from, config.data.dir, config.data.cache_dir, config.results_dir]


def test_paths_are_taken_as_they_are_but_for_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("2024_01_15", "1e3", "007"):  # which look like numbers
        assert compose("task=rte", f"results_dir={name}").results_dir == name
    monkeypatch.setenv("GLUE_DIR", "/x/${y")
    assert compose("task=rte").data.dir == "/x/${y"
    monkeypatch.setenv("HOME", "/home/größe x")
    config = compose("task=rte", *(f"{key}=~/{key}" for key in PATHS))
    assert paths(config) == [f"/home/größe x/{key}" for key in PATHS]


def test_run_folder_is_a_function_of_the_configuration() -> None:
    config = compose("task=mrpc", "method=lora", "seed=7", "results_dir=out")
    assert run_folder(config) == Path("out/paper/roberta-base/lora/mrpc") / slug(config) / "seed-7"
    assert slug(config).startswith("lr-4e-4_bs-16_ep-30_")
    # Commas and equals signs would have to be quoted when a path is given back to Hydra or Make.
    assert not set(str(run_folder(config))) & set(",= ")


# The message repeats them.
BAD_VALUES = """train.lr=0.0 train.lr=nan train.lr=inf train.batch_size=0 train.epochs=0 train.weight_decay=-1.0
train.warmup_ratio=2.0 train.max_grad_norm=-1.0 train.patience=0 train.head_lr=0.0 train.model_dropout=1.0
protocol.selection=median protocol.held_out=1.0 precision=fp8 seed=-1 data.max_length=2 data.source=web
data.train_limit=0 method.trains=everything method.lambda_decay=two logger.name=tensorboard logger.mode=sometimes"""


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        *((word, word) for word in BAD_VALUES.split()),
        ("protocol.selection=held_out", "protocol.held_out"),
        ("train.gradient_accumulation_steps=33", "train.batch_size=32"),
        ("method.peft_type=null", "method.peft_type"),
        ("task.score=f1", "task.score"),
        ("task.validation=[test]", "task.validation is a fact"),
        ("model.name=../../evil", "model.name"),
        ("protocol.name=/abs", "protocol.name"),
        ("task.name=boolq", "recipe"),
        ("model=local", "model.name is not set"),
        ("protocol=demo data.demo_rows.train=0", "data.demo_rows.train=0"),
        ("protocol=demo data.demo_rows.train=-4", "data.demo_rows.train=-4"),
        ("train.patience=2 protocol.selection=last", "train.patience=2 with protocol.selection=last"),
    ],
)
def test_a_bad_value_is_named(overrides: str, says: str) -> None:
    with pytest.raises(SymloraError) as caught:
        compose("task=rte", *overrides.split())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], ["method: ", " full", " head", " lora,", " symlora,"]),
        (["task=boolq"], ["task/boolq", "rte"]),
        (["method.peft_config.rank=4"], ["method.peft_config.rank"]),
        (["train.lr=-1"], ["train.lr=-1"]),
        (["-m", "task=rte,mrpc", "--cfg", "job"], ["leave out -m"]),
    ],
)
def test_help_and_typing_errors_are_short_and_load_no_torch(
    arguments: list[str], says: list[str], tmp_path: Path
) -> None:
    """So they answer in about a second, where torch, transformers and peft take five to ten."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'evaluate', 'wandb', 'scipy'}\n"
        "atexit.register(lambda: print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr))\n"
    )
    status = 0 if arguments == ["--help"] else 1
    ended = run_program(sys.executable, "scripts/train.py", *arguments, status=status, PYTHONPATH=str(tmp_path))
    printed = ended.stdout + ended.stderr
    assert "Traceback" not in printed and "HEAVY []" in ended.stderr
    assert all(part in printed for part in says), printed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task=null"], r"task=null: there is no configs/task/null\.yaml"),
        (["method=symlroa"], r"method=symlroa: there is no configs/method/symlroa\.yaml\. Near: symlora"),
        (["method=lora,symlroa", "task=rte"], "method=symlroa: there is no"),
        (["model=x"], "There are: ModernBERT-base, bert-base, .*roberta-large"),
        (["task=/etc/passwd"], "task=/etc/passwd: there is no"),
        (["train.lr={"], r"^train\.lr=\{ cannot be read"),
        (["task.columns=[My text (raw),b]"], r"Quoted: \"task\.columns=\['My text \(raw\)','b'\]\";"),
        (["task.columns=text"], r"a list is expected: \"task\.columns=\['text'\]\"\."),
        (["+=1"], "no key before"),
        (["protocl=smoke"], r"there is no setting protocl\. Near: protocol"),
        (["protocol.name=smoke"], r"a file sets this name. Give protocol=smoke"),
        (["sweep=grid", "protocol=methods"], r"no configs/grid/methods\.yaml\. .*A protocol's grid"),
        (["task=CoLA"], "task=CoLA: there is no .*Near: cola"),
        (["train.lrate=1e-3"], r"train\.lrate=1e-3: there is no setting train\.lrate\. Near: train\.lr"),
        (["lr=1e-3"], r"there is no setting lr\. Near: train\.lr"),
        (["-m", "hydra/launcher=pakced"], r"hydra/launcher=pakced: there is no such choice\. Near: packed"),
        (["-m", "train.lrate=1e-3,2e-3"], r"there is no setting train\.lrate\. Near: train\.lr"),
        (["logger=null"], "give none or wandb"),
        (["train.lr=fast"], r"train\.lr=fast: Value 'fast' .*Float"),
        (["results_dir=/my", "runs/a"], r"^runs/a: give key=value.*ARGS="),
        (["seed=one"], r"seed=one: Value 'one' .*Integer"),
        (["seed=0,1"], "seed=0,1: several values mean several runs: add -m"),
    ],
)
def test_words_of_a_command_are_refused_in_one_line(words: list[str], says: str) -> None:
    with pytest.raises(SymloraError, match=says) as refused:
        check_words(words)
    assert "\n" not in str(refused.value)


def test_a_protocol_bears_the_name_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symlora.config.overrides.CONFIG_DIR", tmp_path)
    (tmp_path / "protocol").mkdir()
    own = tmp_path / "protocol" / "mine.yaml"
    for text, found in (("defaults: [short]\n", "missing"), ("protocol: {name: short}\n", "short")):
        own.write_text(text)
        with pytest.raises(SymloraError, match=f"protocol.name is {found}. Set it to mine"):
            check_words(["protocol=mine"])
    own.write_text("protocol: {name: mine}\n")
    check_words(["protocol=mine"])


@pytest.mark.parametrize("name", ["a=b", "größe", "(1) #2", "it's", "[x] & {y}", "a b"])
def test_odd_paths_need_no_quotes(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    config = compose("task=rte", *(f"{key}={tmp_path / name}" for key in PATHS))
    assert set(paths(config)) == {str(tmp_path / name)}
    sweep = expand("task=rte", "seed=0,1", f"results_dir={tmp_path / name}")
    assert {run.results_dir for run in sweep} == {str(tmp_path / name)}


def test_a_task_file_of_the_users_own_names_its_runs_by_its_content() -> None:
    rte = compose("task=rte")
    mine = replace(rte, task=replace(rte.task, name="mine"))
    other = replace(mine, task=replace(mine.task, columns=["sentence2", "sentence1"]))
    assert len({config_hash(config) for config in (rte, mine, other)}) == 3


def test_right_words_of_a_command_pass() -> None:
    check_words(["-m", "method=glob(*)", "task=rte,mrpc", "model=minilm", "+data.x=[1,2]", "sweep=grid", "~logger"])
    check_words(["-m", 'train.lr="1e-3","2e-3"', "train.epochs=1,2"])
    check_words(["++train.lr=1e-3", "++hydra.launcher.timeout_min=10"])
    check_words(["--config-dir=elsewhere", "method=of_my_own"])
    check_words(["task=rte", "--cfg", "job", "--resolve"])
