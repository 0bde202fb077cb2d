"""`hydra/launcher=packed`: jobs that can share a pass over the frozen encoder are trained together.

    python scripts/train.py -m hydra/launcher=packed task=rte method=symlora,lora train.lr=1e-3,2e-3,4e-3 seed=0

Finished jobs are left out; the others are put into packs (symlora.sweep.packing), and each pack is one job of an inner
launcher of Hydra's (symlora.sweep.launchers). Every job has its own run folder and outcome, in the order asked for.
"""

import contextlib
import copy
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from symlora.config.compose import resolve
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.store.folder import finished_record, read_run, run_folder
from symlora.store.locks import holder
from symlora.sweep import launchers
from symlora.sweep.launchers import visible_devices
from symlora.sweep.packing import MAX_TOKENS_CPU, MAX_TOKENS_GPU, Job, PackPlan, plan
from symlora.sweep.progress import POLL, ProgressLog, Watcher
from symlora.sweep.worker import Outcome, PackTask, outcome
from symlora.training.checkpoint_files import clear_settled, headers, plans, write_plan
from symlora.training.interrupt import graceful_stop, raise_if_stopped


class PackedLauncher(Launcher):
    """Hydra's launcher interface; the arguments are symlora.sweep.launchers.PackedLauncherConf's."""

    def __init__(
        self,
        inner: str = "auto",
        inner_config: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        workers: int | None = None,
        threads: int | None = None,
    ) -> None:
        self.inner = inner
        self.inner_config = {**(inner_config or {})}
        self.max_tokens = max_tokens
        self.workers = workers
        self.threads = threads

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra. `task_function` is not used: it trains one run, and packs are trained by PackTask."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Trains all jobs.

        Returns:
            A JobReturn for each, in their order: the score, or the failure.

        Raises:
            CompactHydraException: The launcher's settings are wrong; nothing was trained.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        returns: list[JobReturn] = []
        configs: dict[int, Config] = {}
        outcomes: dict[int, Outcome] = {}
        for index, overrides in enumerate(job_overrides):
            job_return, config = self._compose(overrides, initial_job_idx + index)
            returns.append(job_return)
            if isinstance(config, Config):
                configs[index] = config
            else:
                outcomes[index] = Outcome(index, error=str(config))
        self._began = time.time()
        try:
            outcomes |= self._run(configs, job_overrides)
        except SymloraError as error:
            raise CompactHydraException(f"error: {error}") from None
        for root in {Path(config.results_dir) for config in configs.values()}:
            clear_settled(root)
        for index, job_return in enumerate(returns):
            _settle(job_return, outcomes[index])
        _say_failures([outcomes[index] for index in range(len(returns))], job_overrides)
        return returns

    def _compose(self, overrides: Sequence[str], number: int) -> tuple[JobReturn, Config | SymloraError]:
        """The frame of what Hydra's run_job would return, and the job's configuration, or what is wrong with it."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = number
            composed.hydra.job.num = number
        cfg = copy.deepcopy(composed)
        with read_write(cfg), open_dict(cfg):
            del cfg["hydra"]
        frame = JobReturn(
            overrides=list(composed.hydra.overrides.task),
            cfg=cfg,
            hydra_cfg=OmegaConf.masked_copy(composed, ["hydra"]),
            working_dir=os.getcwd(),
            task_name=composed.hydra.job.name,
        )
        before = HydraConfig.instance().cfg
        HydraConfig.instance().set_config(composed)  # for ${hydra:...} in the run's own values
        try:
            return frame, resolve(cfg)
        except SymloraError as error:
            return frame, error
        finally:
            HydraConfig.instance().cfg = before

    def _run(self, configs: Mapping[int, Config], job_overrides: Sequence[Sequence[str]]) -> dict[int, Outcome]:
        """Outcomes of all jobs: of finished ones from their folders, of the others from training them."""
        outcomes: dict[int, Outcome] = {}
        first: dict[Path, int] = {}  # jobs that differ in nothing that makes a run are one run
        finished = 0
        for index, config in configs.items():
            folder = run_folder(config)
            try:
                record = finished_record(config)
            except SymloraError as error:
                outcomes[index] = Outcome(index, error=str(error))
                continue
            if record is None:
                first.setdefault(folder, index)
            else:
                outcomes[index] = outcome(index, folder, record)
                finished += 1
        if finished:
            _say(f"{finished} of {len(configs)} runs are finished already")
        self._asked = len({run_folder(config) for config in configs.values()})
        if first:
            from symlora.sweep.workload import describe  # torch and transformers: only where something is to be trained

            jobs, failed = describe({index: configs[index] for index in first.values()})
            outcomes |= failed | self._train_all(jobs, job_overrides)
        for index, config in configs.items():
            if index not in outcomes:
                outcomes[index] = replace(outcomes[first[run_folder(config)]], index=index)
        return outcomes

    def _train_all(self, jobs: Sequence[Job], job_overrides: Sequence[Sequence[str]]) -> dict[int, Outcome]:
        """Trains jobs; those that other processes train are waited for, and trained here if they are left undone."""
        outcomes = self._train(jobs, job_overrides)
        while busy := [job for job in jobs if outcomes[job.index].busy]:
            are = "runs are" if len(busy) > 1 else "run is"
            _say(f"{len(busy)} {are} trained by other processes; waiting (Ctrl-C is safe)")
            while all(holder(Path(job.config.results_dir), run_folder(job.config)) for job in busy):
                time.sleep(POLL)
            outcomes |= self._train(busy, job_overrides)  # what is finished, or failed meanwhile, is not trained again
        return outcomes

    def _train(self, jobs: Sequence[Job], job_overrides: Sequence[Sequence[str]]) -> dict[int, Outcome]:
        if not jobs:
            return {}
        from symlora.model.device import pick_device

        on_gpu = pick_device(jobs[0].config.device).type != "cpu"
        devices = visible_devices() if on_gpu else []
        # By all runs that the command names, finished or not: the last of a stopped sweep trains as the others did.
        inner = self.inner if self.inner != "auto" else _auto(self._asked, devices)
        settings = launchers.launcher_node(inner, self.inner_config)
        workers = self.workers or launchers.at_once(inner, settings, len(devices))
        stopped, others = stopped_packs(jobs)
        packs = stopped + plan(others, self.max_tokens or (MAX_TOKENS_GPU if on_gpu else MAX_TOKENS_CPU), workers)
        note_plan(packs)
        if inner == "joblib":
            settings.n_jobs = min(workers, len(packs))
            settings.batch_size = 1
        alone_in_thread = inner in ("joblib", "submitit_local", "ray") and not on_gpu
        threads = self.threads or (1 if alone_in_thread else None)
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"packs-{secrets.token_hex(4)}.jsonl"
        given_out = devices if inner == "joblib" and len(devices) > 1 else ()
        stop_file = path.with_suffix(".stop").absolute()
        task = PackTask(packs, ProgressLog(path), threads, given_out, stop_file, self._began)
        if stopped:
            _say(f"{sum(len(pack.jobs) for pack in stopped)} runs go on in the packs of a sweep that was stopped")
        _say(
            f"{len(jobs)} run{'s' * (len(jobs) > 1)} in {len(packs)} pack{'s' * (len(packs) > 1)}, "
            f"{min(workers, len(packs))} at a time (launcher {inner})"
        )
        found: dict[int, Outcome] = {}
        lost = "its worker ended before it did"
        with Watcher(packs, path), _threads_inherited(threads), graceful_stop(stop_file, announce=True):
            try:
                for job_return in launchers.launch(
                    settings,
                    task,
                    [job_overrides[pack.jobs[0].index] for pack in packs],
                    context=self.hydra_context,
                    config=self.config,
                    wave=workers if inner == "submitit_local" else None,
                ):
                    found |= {ended.index: ended for ended in job_return.return_value}
            except Exception as error:  # a killed worker, a time limit: each launcher has its own
                lost = f"{lost} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
            raise_if_stopped()  # finished runs stay, the others have checkpoints, slow workers need the stop file
            stop_file.unlink(missing_ok=True)
        return {job.index: found.get(job.index) or _from_folder(job, lost) for job in jobs}


def stopped_packs(jobs: Sequence[Job]) -> tuple[list[PackPlan], list[Job]]:
    """Packs that were stopped, or planned by a sweep that was, as they were; and the jobs in none of them.

    A run's last bits depend on the runs beside it.
    """
    packs: list[PackPlan] = []
    left = {_name(job): job for job in jobs}
    for root in dict.fromkeys(Path(job.config.results_dir) for job in jobs):
        kept = headers(root)
        for runs in [*(header.runs for header in kept), *plans(root)]:
            mine = [name for name in dict.fromkeys(runs) if name in left]
            if mine and (set(mine) == set(runs) or any(header.serves(mine) for header in kept)):
                packs.append(PackPlan(tuple(left.pop(name) for name in mine)))
    return packs, list(left.values())


def note_plan(packs: Sequence[PackPlan]) -> None:
    """Keeps which runs are to train together, for the same command after a stop."""
    for pack in packs:
        write_plan(Path(pack.jobs[0].config.results_dir), [_name(job) for job in pack.jobs])


def _name(job: Job) -> str:
    return str(run_folder(job.config).relative_to(Path(job.config.results_dir)))


def _auto(jobs: int, devices: Sequence[str]) -> str:
    """The inner launcher that uses the machine well."""
    places = len(devices) or launchers.cores()
    return "joblib" if min(jobs, places) > 1 and launchers.installed("joblib") else "basic"


@contextlib.contextmanager
def _threads_inherited(threads: int | None) -> Iterator[None]:
    """OMP_NUM_THREADS for the workers, which read it when they import torch."""
    before = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if threads is not None:
            os.environ.pop("OMP_NUM_THREADS", None)
            if before is not None:
                os.environ["OMP_NUM_THREADS"] = before


def _from_folder(job: Job, lost: str) -> Outcome:
    """The outcome of a run whose worker did not come back: its folder may stand all the same."""
    folder = run_folder(job.config)
    record = None if job.config.force else read_run(folder)
    if record is not None and record["status"] == "finished":
        return outcome(job.index, folder, record)
    return Outcome(job.index, error=f"{lost}; start the same command again for what is missing")


def _settle(job_return: JobReturn, ended: Outcome) -> None:
    """Enters the outcome; Hydra's sweeper raises the first failure when all is done, and exits with 1."""
    if ended.error is None:
        job_return.status, job_return.return_value = JobStatus.COMPLETED, ended.score
    else:
        job_return.status = JobStatus.FAILED
        job_return.return_value = CompactHydraException(f"error: {ended.error}")


def _say_failures(outcomes: Sequence[Outcome], job_overrides: Sequence[Sequence[str]]) -> None:
    failed = [ended for ended in outcomes if ended.error is not None]
    common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    for ended in failed:
        own = [override for override in filter_overrides(job_overrides[ended.index]) if override not in common]
        _say(f"error: {ended.error}  [{' '.join(own)}]")
    if failed:
        _say(f"{len(failed)} of {len(outcomes)} runs failed; the others are finished")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
