"""Give wrong settings: a message must name the key, or what was written where that is none."""

from dataclasses import replace

from faults.places import SHORT, Place
from faults.session import Session

ACCEPTED = 77

_NOT_WHOLE = ["word", "1.5", "[1,2]", "{a: 1}", "true", "nan", "1e400", "null", "''", "0x", "１２three"]
_NOT_NUMBER = ["word", "[1,2]", "{a: 1}", "''", "1e", "--1", "0.1.2"]
_NOT_TRUTH = ["word", "2.5", "[true]", "''", "maybe"]
_RATES = ["0", "-1", "-1e-30", "nan", "inf", "-inf", "1e400"]
_SHARES = ["-0.1", "1.5", "nan", "inf", "-1e400", "99999999999999999999"]
_PATHS = ["../x", "..", ".", "a/b", "/etc", "''", "ünïcode", "'a b'", "-x", "a\\b", "~", "$HOME", "名前", "'a\nb'"]

# Key: values that it must refuse.
RANGES = {
    "train.lr": _RATES + _NOT_NUMBER,
    "train.head_lr": _RATES + _NOT_NUMBER,
    "train.batch_size": ["0", "-1", "-99999999999999999999", *_NOT_WHOLE],
    "train.epochs": ["0", "-3", *_NOT_WHOLE],
    "train.warmup_ratio": _SHARES + _NOT_NUMBER,
    "train.weight_decay": ["-1", "nan", "-inf", *_NOT_NUMBER],
    "train.max_grad_norm": ["-1", "nan", *_NOT_NUMBER],
    "train.model_dropout": ["1", "-0.1", "nan", "2", *_NOT_NUMBER],
    "protocol.held_out": ["1", "-0.1", "nan", *_NOT_NUMBER],
    "protocol.selection": ["worst", "held_out", "''"],
    "seed": ["-1", *_NOT_WHOLE],
    "data.max_length": ["0", "7", "-5", "99999", *_NOT_WHOLE],
    "data.train_limit": ["0", "1", "-5", "word", "1.5", "nan"],
    "data.source": ["hub", "''", "../glue"],
    "data.demo_rows": ["5", "word", "[1]", "{train: word}", "{train: 0, validation: 8}", "{train: -4, validation: 8}"],
    "method.trains": ["nothing", "''", "Adapter"],
    "method.peft_type": ["NOTHING", "null", "''", "lora "],
    "method.lambda_decay": ["two", "''"],
    "method.peft_config.r": ["0", "-1", "1.5", "word", "99999", "true", "nan", "[1]"],
    "method.peft_config.alpha": ["0", "-1", "word", "true", "nan"],
    "method.peft_config.target_modules": ["[nothing]", "[]", "5"],
    "method.lr_ratio": ["{lora_B: 0}", "{lora_B: -1}", "word", "[1]", "{lora_B: word}"],
    "method.base_parameters": ["[bias]", "word"],
    "method.name": _PATHS,
    "model.name": _PATHS,
    "protocol.name": _PATHS,
    "model.path": ["/does/not/exist", "/etc/passwd", "."],
    "model.shape": ["{hidden_size: 7}", "word"],
    "init_from": ["/does/not/exist", "/etc/passwd", "."],
    "device": ["mars", "cuda:99", "''", "mps:0", "cpu:-1"],
    "precision": ["fp8", "''", "16"],
    "logger.name": ["tensorboard", "''"],
    "logger.mode": ["sometimes"],
    "checkpoint.seconds": ["-1", "nan", "word", "[1]"],
    "checkpoint.resume": _NOT_TRUTH,
    "predict_test": _NOT_TRUTH,
    "force": _NOT_TRUTH,
    "progress": _NOT_TRUTH,
    "results_dir": ["/dev/null/runs", "null", "/proc/runs"],
    "task.name": ["../x", "nothing", "''"],
    "task.score": ["f2", "''"],
    "task.metrics": ["[f2]", "word", "[]"],
    "task.columns": ["[sentence]", "word"],
    "task.splits": ["{train: 5}", "word"],
}
# No upper bound: harmless, or refused.
LARGE = (
    ("data.demo_rows", "{train: 20000, validation: 16, test: 4}"),
    ("seed", str(2**32)),
    ("train.batch_size", str(10**30)),
    ("seed", str(10**30)),
    ("data.train_limit", str(10**30)),
    ("data.demo_rows", "{train: 32, validation: 1000000000000000, test: 4}"),
    ("train.batch_size", "1000000"),
    ("seed", str(2**64)),
    ("seed", str(2**63)),
    ("data.max_length", str(2**63)),
    ("method.peft_config.r", str(10**30)),
)
SYNTAX = ["=1", "train.lr=[1", "train.lr={", "train.lr='x", "seed=1,2", "train.lr=1e-3,2e-3", "train", "~train.nothing",
          "train.=1", ".lr=1", "++=1", "train.lr=${nothing}", "train.lr=${oc.env:NOTHING_HERE}", "seed=range(3)",
          "train..lr=1", "seed=a:b:c(", "~task.name"]  # fmt: skip
UNKNOWN = [
    *(f"{part}.nothing" for part in ("train", "data", "method", "model", "protocol", "logger", "task", "checkpoint")),
    *(f"+{part}.nothing" for part in ("train", "data", "method.peft_config", "model")),
    *("method.peft_config.nothing", "nothing"),
]
OPTIONS = [
    (group, name)
    for group in ("task", "method", "model", "protocol", "logger")
    for name in ("nothing", "../../x", "null", "[a,b]", "/etc/passwd", "ünï")
]


def _keyed(key: str, value: object) -> tuple[str, tuple[str, ...]]:
    return f"{key}={value}", (key.lstrip("+"), key.rpartition(".")[2])


# Overrides, and what a message must name: one of these.
WRONG: list[tuple[str, tuple[str, ...]]] = [
    *(_keyed(key, value) for key, values in RANGES.items() for value in values),
    *(_keyed(key, -(10**30)) for key in ("train.batch_size", "train.epochs", "seed", "data.train_limit")),
    *(_keyed("data.max_length", value) for value in (-(10**30), 10**5, 10**30)),  # the encoder bounds it; others: LARGE
    *(_keyed(key, 1) for key in UNKNOWN),
    *((f"{group}={name}", (name, group)) for group, name in OPTIONS),
    *((text, tuple(part for part in (text, *text.strip("~+").partition("=")) if len(part) > 1)) for text in SYNTAX),
]


def stop_before_training() -> None:
    """Let settings that are accepted not be trained with."""
    from symlora.runner import run

    def accepted(*arguments: object, **named: object) -> None:
        raise SystemExit(ACCEPTED)

    run.__dict__["fit_pack"] = accepted


def made_up_overrides(place: Place, session: Session, count: int) -> None:
    """Start `count` runs: a quarter with large numbers, the others with wrong settings."""
    large = LARGE[: count // 4]
    for key, value in large:  # to a finished run, or refused in one clear message; never to a failed run
        here, said = place.below("large"), f"{key}={value}"
        ended = here.train(*SHORT, said).wait()
        names: tuple[str, ...] = () if "the run failed" in ended.err else (key, f"{key.rpartition('.')[2]} = {value}")
        session.judge("overrides", said, ended, names, right=True)
        here.clear()
    for text, names in session.rng.sample(WRONG, min(len(WRONG), max(1, count - len(large)))):
        here = place.below("override")
        ended = here.train(text, plant=stop_before_training).wait()
        if ended.status in (0, ACCEPTED):
            ended = replace(ended, status=1, out="", err="it was let through")
        session.judge("overrides", text, ended, names, right=False)
        session.add("other run changed", text, [f"left {path}" for path in here.folder.rglob(".seed-*")])
        here.clear()
