"""Write and check the zip: the same predictions give the same bytes."""

import argparse
import sys
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from symlora.config.identity import file_sha256
from symlora.errors import PARTIAL, SymloraError
from symlora.store.files import atomic_write, writing
from symlora.store.folder import write_json
from symlora.submission.files import HEADER, LINES, files
from symlora.submission.gather import Part, gather

LARGEST = 2**26  # bytes of a file; QQP's has 4 MiB
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold: no time of day in the bytes


@dataclass(frozen=True)
class Checked:
    """The contents of a zip."""

    good: tuple[str, ...]  # names of the files that are as they must be
    missing: tuple[str, ...]
    wrong: tuple[str, ...]  # a sentence for each thing that the server would refuse
    lines: int  # of the good files, headers counted

    @property
    def complete(self) -> bool:
        """True if it can be uploaded."""
        return not self.missing and not self.wrong and self.lines == LINES


def check(path: Path) -> Checked:
    """Check names, header, rows, their order and every prediction.

    Raises:
        SymloraError: It is not there, or cannot be read as a zip.
    """
    expected = {file.name: file for file in files()}
    good: list[str] = []
    try:
        with zipfile.ZipFile(path) as archive:
            names = [entry.filename for entry in archive.infolist()]
            wrong = [_stranger(name) for name in names if name not in expected]
            wrong += [f"the zip holds {name} {names.count(name)} times." for name in expected if names.count(name) > 1]
            for name in (name for name in expected if names.count(name) == 1):
                if (size := archive.getinfo(name).file_size) > LARGEST:
                    wrong.append(f"{name} has {size:,} bytes: far too many.")
                elif fault := expected[name].fault(archive.read(name)):
                    wrong.append(f"{name}: {fault}")
                else:
                    good.append(name)
    except FileNotFoundError:
        raise SymloraError(f"{path} does not exist. `make submission` writes one.") from None
    except (OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise SymloraError(f"{path} cannot be read as a zip ({error}). Make it again.") from error
    missing = tuple(name for name in expected if name not in names)
    return Checked(tuple(good), missing, tuple(wrong), sum(expected[name].rows + 1 for name in good))


def _stranger(name: str) -> str:
    if "/" in name or "\\" in name:
        return f"{name} is in a folder, or is one: the files belong at the root of the zip."
    return f"{name} is none of the eleven files."


def write(parts: Sequence[Part], out: Path, name: str) -> tuple[Path, Checked]:
    """Write and check <out>/<name>.zip, with a JSON file next to it.

    Where files are missing the name is <name>-partial.zip. The JSON says which run each file comes from, and the zip's
    SHA-256.

    Raises:
        SymloraError: It cannot be written, or the server would refuse something in it.
    """
    there = [part for part in parts if part.predictions]
    path = out / f"{name}{'' if len(there) == len(parts) else '-partial'}.zip"
    with writing(path):
        out.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as temporary:
            with zipfile.ZipFile(temporary, "w") as archive:
                for part in there:
                    entry = zipfile.ZipInfo(part.file.name, EPOCH)
                    entry.external_attr = 0o644 << 16
                    rows = (f"{number}\t{prediction}\n" for number, prediction in enumerate(part.predictions))
                    archive.writestr(entry, f"{HEADER}\n{''.join(rows)}", zipfile.ZIP_DEFLATED)
            checked = check(temporary)
            if checked.wrong:
                raise SymloraError(f"{path} was not written: {' '.join(checked.wrong)}")
        described = [{"file": part.file.name, "rows": len(part.predictions), "run": part.run} for part in parts]
        write_json(path.with_suffix(".json"), {"sha256": file_sha256(path), "files": described})
    return path, checked


def command(chosen: argparse.Namespace) -> int:
    """Run `symlora submission`: write the zip, or check one."""
    if chosen.check is not None:
        return _verdict(chosen.check, check(chosen.check))
    parts = gather(chosen.results_dir, chosen.protocol, chosen.model, chosen.method)
    for part in parts:
        print(f"{part.file.name:12} {len(part.predictions):>7,} of {part.file.rows:>7,} rows  {part.source}")
    name = f"{chosen.protocol}-{chosen.model}-{chosen.method}"
    path, checked = write(parts, chosen.out, name)
    print(path)
    complete = chosen.out / f"{name}.zip"
    if path != complete and complete.exists():
        print(f"{complete.name} next to it is an older one: it was not made from these runs.")
    return _verdict(path, checked)


def _verdict(path: Path, checked: Checked) -> int:
    for sentence in checked.wrong:
        print(f"wrong: {sentence}")
    print(f"{len(checked.good)} of {len(files())} files are valid, {checked.lines:,} of {LINES:,} lines.")
    if checked.missing:
        print(f"missing: {', '.join(checked.missing)}")
    if checked.complete:
        print(
            f"{path.name} can be uploaded. Returned scores go into results/leaderboard (its README.md has a template)."
        )
        return 0
    print(f"{path.name} CANNOT be uploaded: the server refuses a zip that is incomplete or wrong.", file=sys.stderr)
    return 1 if checked.wrong else PARTIAL
