"""Write and load checkpoints of a pack, for exact resume.

    <results_dir>/.checkpoints/<pack>.<first digits of the file's SHA-256>.safetensors

One file holds all that the rest of the training depends on: trained parameters, optimizer, schedule, random generators,
position in the data, scores so far, the best parameters so far. What follows from configuration and seed (frozen
weights, order of the data) is made again. The file is written under another name, flushed to the disk and renamed, and
its name says what its content must hash to: a file cut short or changed is never used, and costs time alone.

A checkpoint belongs to its pack, since a run's last bits depend on the other runs in it. Once its runs are trained to
the end, any of them can be taken from it alone.
"""

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from symlora.store.files import atomic_write
from symlora.training.checkpoint_files import FOLDER, FORMAT, Header, clear_settled, headers, pack_name

SHARE_OF_TIME = 0.01  # a checkpoint that took t seconds is followed by none for t / 0.01


class Checkpoint:
    """Where one pack of runs keeps how far it is.

    Args:
        runs: The runs' folders within the results folder.
        fingerprint: See `Header`.
        seconds: Time between two checkpoints; at the end of the training there is one in any case.
        resume: Whether to resume from an existing checkpoint.

    Attributes:
        restarts: How often these runs were taken up from a checkpoint.
        together: How many runs the pack had that was trained.
    """

    def __init__(
        self, results_dir: Path, runs: Sequence[str], fingerprint: dict[str, Any], seconds: float, resume: bool = True
    ) -> None:
        self.folder = results_dir / FOLDER
        self.results_dir = results_dir
        self.runs = tuple(runs)
        self.fingerprint = json.loads(json.dumps(fingerprint))
        self.seconds, self.resume = seconds, resume
        self._name = pack_name(runs)
        self.seconds_before, self.restarts, self.together = 0.0, 0, len(runs)
        self._started = time.monotonic()
        self._next = self._started + seconds
        self._failed = False

    def due(self) -> bool:
        """Tell whether it is time for the next checkpoint."""
        return time.monotonic() >= self._next

    def save(self, state: dict[str, Any], steps: int, *, trained: bool = False) -> None:
        """Write a checkpoint and remove the one before; ignore a full disk."""
        started = time.monotonic()
        tensors: dict[str, Tensor] = {}
        header = {
            "format": FORMAT,
            "runs": self.runs,
            "trained": trained,
            "fingerprint": self.fingerprint,
            "steps": steps,
            "seconds": self.seconds_spent(),
            "restarts": self.restarts,
            "state": _taken_apart(state, tensors, {}),
        }
        content = save(tensors, {"symlora": json.dumps(header)})
        path = self.folder / f"{self._name}.{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            if not self._failed:
                print(f"  no checkpoint could be written ({error.strerror}); the run goes on", file=sys.stderr)
            self._failed = True
        else:
            for other in self.folder.glob(f"{self._name}.*.safetensors"):
                if other != path:
                    other.unlink(missing_ok=True)
        now = time.monotonic()
        self._next = now + max(self.seconds, (now - started) / SHARE_OF_TIME)

    def load(self) -> dict[str, Any] | None:
        """Load these runs' checkpoint; None if there is no usable one."""
        for half in self.folder.glob(f".{self._name}.*.safetensors.*"):  # of a process killed while it wrote
            half.unlink(missing_ok=True)
        clear_settled(self.results_dir, self.runs)
        found = headers(self.results_dir)
        for path in set(self.folder.glob(f"{self._name}.*.safetensors")) - {header.path for header in found}:
            self._say(f"{path} is damaged")
        for header in found if self.resume else []:
            if not header.serves(self.runs):
                continue
            try:
                content = header.path.read_bytes()
            except OSError:  # removed since, by the process that finished these runs
                continue
            if hashlib.sha256(content).hexdigest()[:16] != header.path.name.split(".")[1]:
                self._say(f"{header.path} is damaged")
                continue
            if odd := self._differences(header):
                self._say(f"a checkpoint was made with other {' and '.join(odd)}")
                continue
            said = header.said
            self.seconds_before, self.restarts = said["seconds"], said["restarts"] + 1
            self.together = len(header.runs)
            times = "" if self.restarts == 1 else f" (resumed {self.restarts} times)"
            print(f"  resumes from the checkpoint at step {header.steps:,}{times}", file=sys.stderr)
            state: dict[str, Any] = _put_together(said["state"], load(content))
            return state
        return None

    def _differences(self, header: Header) -> list[str]:
        """List what has changed since the checkpoint was made."""
        theirs, own = dict(header.fingerprint), dict(self.fingerprint)
        before, now = theirs.pop("configurations", {}), own.pop("configurations")
        odd = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
        return odd + ["configurations"] * any(before.get(run) != now[run] for run in self.runs)

    def _say(self, text: str) -> None:
        print(f"  {text}: training starts anew", file=sys.stderr)

    def seconds_spent(self) -> float:
        """Return the wall clock of these runs, earlier processes included."""
        return self.seconds_before + time.monotonic() - self._started


def _taken_apart(value: Any, tensors: dict[str, Tensor], seen: dict[int, str]) -> Any:
    """Replace a state's tensors and arrays by numbers; keep each once."""
    if isinstance(value, (Tensor, np.ndarray)):
        if id(value) not in seen:
            seen[id(value)] = str(len(tensors))
            tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(value)
            tensors[seen[id(value)]] = tensor.clone(memory_format=torch.contiguous_format)
        return {"$tensor" if isinstance(value, Tensor) else "$array": seen[id(value)]}
    if isinstance(value, dict):
        return {str(key): _taken_apart(item, tensors, seen) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_taken_apart(item, tensors, seen) for item in value]
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$array" in value:
            return tensors[value["$array"]].numpy()
        return {key: _put_together(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    return value
