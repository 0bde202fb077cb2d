"""Made-up settings: each is wrong, and the message must name the key (or what was written, where that is none)."""

from collections.abc import Callable

import hypothesis.strategies as st
from hypothesis import Phase, given, settings

from faults.judge import Verdicts
from faults.kills import SHORT
from faults.places import Place

Wrong = tuple[str, tuple[str, ...]]
"""An override, and what a message about it must name: one of these."""

ACCEPTED = 77

_NOT_WHOLE = ["word", "1.5", "[1,2]", "{a: 1}", "true", "nan", "1e400", "null", "''", "0x", "１２three"]
_NOT_NUMBER = ["word", "[1,2]", "{a: 1}", "''", "1e", "--1", "0.1.2"]
_NOT_TRUTH = ["word", "2.5", "[true]", "''", "maybe"]
_RATES = ["0", "-1", "-1e-30", "nan", "inf", "-inf", "1e400"]
_SHARES = ["-0.1", "1.5", "nan", "inf", "-1e400", "99999999999999999999"]
_PATH_TRICKS = [
    "../x",
    "..",
    ".",
    "a/b",
    "/etc",
    "''",
    "ünïcode",
    "'a b'",
    "-x",
    "a\\b",
    "~",
    "$HOME",
    "名前",
    "'a\nb'",
]
_WORDS = st.text("abcdefghijklmnopqrstuvwxyz_", min_size=3, max_size=10).filter(
    lambda word: word not in ("name", "seed", "device", "train", "data", "model", "method", "task", "logger", "grid")
)

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
    "method.name": _PATH_TRICKS,
    "model.name": _PATH_TRICKS,
    "protocol.name": _PATH_TRICKS,
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
# Whole numbers without an upper bound: harmless, or refused.
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
GROUPS = ("task", "method", "model", "protocol", "logger", "grid", "sweep")
PARTS = ("train", "data", "method", "method.peft_config", "model", "protocol", "logger", "task", "checkpoint")
SYNTAX = ["=1", "train.lr=[1", "train.lr={", "train.lr='x", "seed=1,2", "train.lr=1e-3,2e-3", "train", "~train.nothing",
          "train.=1", ".lr=1", "++=1", "train.lr=${nothing}", "train.lr=${oc.env:NOTHING_HERE}", "seed=range(3)",
          "train..lr=1", "seed=a:b:c(", "~task.name"]  # fmt: skip


def _ranges() -> st.SearchStrategy[Wrong]:
    pairs = [(key, value) for key, values in RANGES.items() for value in values]
    return st.sampled_from(pairs).map(lambda pair: (f"{pair[0]}={pair[1]}", (pair[0], pair[0].rpartition(".")[2])))


def _huge() -> st.SearchStrategy[Wrong]:
    """Far below 0 for every whole number; far above it for what the encoder bounds (the others: LARGE)."""
    keys = st.sampled_from(["train.batch_size", "train.epochs", "seed", "data.max_length", "data.train_limit"])
    below = st.tuples(keys, st.integers(-(10**30), -1))
    above = st.tuples(st.just("data.max_length"), st.integers(10**5, 10**30))
    return st.one_of(below, above).map(lambda pair: (f"{pair[0]}={pair[1]}", (pair[0],)))


def _unknown() -> st.SearchStrategy[Wrong]:
    keys = st.one_of(st.tuples(st.sampled_from(PARTS), _WORDS).map(".".join), _WORDS.map(lambda word: f"x{word}"))
    return keys.map(lambda key: (f"{key}=1", (key, key.rpartition(".")[2])))


def _added() -> st.SearchStrategy[Wrong]:
    keys = st.tuples(st.sampled_from(["train", "data", "method.peft_config", "model"]), _WORDS).map(".".join)
    return keys.map(lambda key: (f"+{key}=1", (key, key.rpartition(".")[2])))


def _options() -> st.SearchStrategy[Wrong]:
    odd = st.one_of(_WORDS, st.sampled_from(["../../x", "null", "[a,b]", "/etc/passwd", "ünï"]))
    return st.tuples(st.sampled_from(GROUPS[:5]), odd).map(lambda pair: ("=".join(pair), (pair[1], pair[0])))


def _syntax() -> st.SearchStrategy[Wrong]:
    return st.sampled_from(SYNTAX).map(lambda text: (text, _parts(text)))


def _parts(text: str) -> tuple[str, ...]:
    """What a message about it may name."""
    return tuple(part for part in (text, *text.strip("~+").partition("=")) if len(part) > 1)


def wrong() -> st.SearchStrategy[Wrong]:
    """Any of them."""
    return st.one_of(_ranges(), _ranges(), _ranges(), _huge(), _unknown(), _added(), _options(), _syntax())


def stop_before_training() -> None:
    """Settings that are let through need not be trained with."""
    from symlora.runner import run

    def accepted(*arguments: object, **named: object) -> None:
        raise SystemExit(ACCEPTED)

    run.__dict__["fit_pack"] = accepted


def large_settings(place: Place, count: int, verdicts: Verdicts, tried: Callable[[], object]) -> None:
    """Trains with the first of LARGE: to a finished run, or refused in one clear message. Never to a failed run."""
    for key, value in LARGE[:count]:
        here = place.below("large")
        ended = here.train(*SHORT, f"{key}={value}").wait()
        said = f"{key}={value}"
        if "the run failed" in ended.err:
            verdicts.tried["overrides"] += 1
            verdicts.unclear.append(f"{said}: {' '.join(ended.err.split())[-400:]}")
        else:
            verdicts.enter("overrides", said, ended, (key, f"{key.rpartition('.')[2]} = {value}"), same=True)
        here.clear()
        tried()


def made_up_overrides(place: Place, count: int, verdicts: Verdicts, tried: Callable[[], object]) -> None:
    """Starts a run with each of `count` settings: three quarters wrong ones, and large ones that may be right."""
    large = min(count // 4, len(LARGE))
    large_settings(place, large, verdicts, tried)

    wanted = max(1, count - large)

    @settings(max_examples=wanted, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(wrong())
    def one(override: Wrong) -> None:
        text, names = override
        here = place.below("override")
        ended = here.train(text, plant=stop_before_training).wait()
        if ended.status in (0, ACCEPTED):
            verdicts.tried["overrides"] += 1
            verdicts.unclear.append(f"{text}: was let through")
        else:
            verdicts.enter("overrides", text, ended, names, same=False)
        verdicts.damaged += [f"{text}: left {path}" for path in here.folder.rglob(".seed-*")]
        here.clear()
        tried()

    one()
