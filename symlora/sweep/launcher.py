"""Train the jobs of a multirun in packs: `hydra/launcher=packed`.

    symlora train -m hydra/launcher=packed task=rte method=symlora,lora train.lr=1e-3,2e-3,4e-3 seed=0

Finished jobs are left out. The others are put into packs (symlora.sweep.packing), and each pack is one job of another
launcher of Hydra's (symlora.sweep.launchers). Every job has its own run folder and outcome, in the order asked for.
"""

import copy
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from symlora.config.compose import resolve
from symlora.config.schema import Config
from symlora.errors import SymloraError
from symlora.store.folder import finished_record, read_run, run_folder
from symlora.store.locks import holder
from symlora.sweep import launchers
from symlora.sweep.packing import Job, PackPlan, most_tokens, plan
from symlora.sweep.progress import POLL, Watcher
from symlora.sweep.worker import Outcome, PackTask, outcome
from symlora.training.checkpoint_files import clear_settled, headers, plans, write_plan
from symlora.training.interrupt import graceful_stop, raise_if_stopped

Overrides = Sequence[Sequence[str]]  # of each job


class PackedLauncher(Launcher):
    """Implement Hydra's launcher interface; the settings are PackedLauncherConf's."""

    def __init__(self, **settings: Any) -> None:
        self.settings = launchers.PackedLauncherConf(**settings)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store Hydra's context; PackTask replaces `task_function`."""
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Overrides, initial_job_idx: int) -> list[JobReturn]:
        """Train all jobs; return each one's score or failure, in order.

        Raises:
            CompactHydraException: The launcher's settings are wrong; nothing was trained.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        returns = [self._compose(job, initial_job_idx + index) for index, job in enumerate(job_overrides)]
        composed = {index: job_return.return_value for index, job_return in enumerate(returns)}
        outcomes = {i: Outcome(i, error=str(error)) for i, error in composed.items() if isinstance(error, SymloraError)}
        configs = {index: config for index, config in composed.items() if index not in outcomes}
        self._began = time.time()
        try:
            outcomes |= self._run(configs, job_overrides)
        except SymloraError as error:
            raise CompactHydraException(f"error: {error}") from None
        for root in {Path(config.results_dir) for config in configs.values()}:
            clear_settled(root)
        for index, job_return in enumerate(returns):
            ended = outcomes[index]  # Hydra's sweeper raises the first failure when all is done, and exits with 1
            job_return.status = JobStatus.COMPLETED if ended.error is None else JobStatus.FAILED
            failure = None if ended.error is None else CompactHydraException(f"error: {ended.error}")
            job_return.return_value = failure or ended.score
        _say_failures([outcomes[index] for index in range(len(returns))], job_overrides)
        return returns

    def _compose(self, overrides: Sequence[str], number: int) -> JobReturn:
        """Let Hydra compose a job's configuration, or find its error."""
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        return run_job(_resolve, composed, "hydra.sweep.dir", None, self.hydra_context, configure_logging=False)

    def _run(self, configs: Mapping[int, Config], job_overrides: Overrides) -> dict[int, Outcome]:
        """Read the outcomes of finished jobs and train the others."""
        outcomes: dict[int, Outcome] = {}
        first: dict[Path, int] = {}  # jobs with the same run folder are one run
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
        if finished := sum(ended.error is None for ended in outcomes.values()):
            _say(f"{finished} of {len(configs)} runs are finished already")
        self._asked = len({run_folder(config) for config in configs.values()})
        if first:
            from symlora.sweep.workload import describe  # torch and transformers, only if something is to be trained

            jobs, failed = describe({index: configs[index] for index in first.values()})
            outcomes |= failed | self._train_all(jobs, job_overrides)
        for index, config in configs.items():
            if index not in outcomes:
                outcomes[index] = replace(outcomes[first[run_folder(config)]], index=index)
        return outcomes

    def _train_all(self, jobs: Sequence[Job], job_overrides: Overrides) -> dict[int, Outcome]:
        """Train all jobs, including those that other processes leave undone."""
        outcomes = self._train(jobs, job_overrides)
        while busy := [job for job in jobs if outcomes[job.index].busy]:
            are = "runs are" if len(busy) > 1 else "run is"
            _say(f"{len(busy)} {are} being trained by other processes; waiting (Ctrl-C is safe)")
            while all(_is_held(job) for job in busy):
                time.sleep(POLL)
            outcomes |= self._train(busy, job_overrides)  # those that ended meanwhile are not trained again
        return outcomes

    def _train(self, jobs: Sequence[Job], job_overrides: Overrides) -> dict[int, Outcome]:
        if not jobs:
            return {}
        from symlora.model.device import pick_device, pick_precision

        given, first = self.settings, jobs[0].config
        for name in ("max_tokens", "workers", "threads"):
            if (number := getattr(given, name)) is not None and number < 1:
                raise SymloraError(f"hydra.launcher.{name}={number}: give a number of at least 1.")
        if self.config.hydra.job.chdir:
            raise SymloraError("hydra.job.chdir=true: packs are trained in one folder. Leave it out.")
        device = pick_device(first.device)
        kind, on_gpu = device.type, device.type != "cpu"
        most = given.max_tokens or most_tokens(kind, pick_precision(first.precision, device))
        devices = launchers.gpus_of(device)
        # By all runs of the command, finished or not, so that a resumed sweep trains as before.
        inner = given.inner
        if inner == "auto":
            places = min(self._asked, len(devices) or launchers.cores())
            inner = "joblib" if places > 1 and launchers.installed("joblib") else "basic"
        settings = launchers.launcher_node(inner, given.inner_config)
        workers = given.workers or launchers.at_once(inner, settings, len(devices))
        stopped, others = stopped_packs(jobs)
        packs = stopped + plan(others, most, workers)
        for pack in packs:  # the same command finds them after a stop
            first = pack.jobs[0].config
            write_plan(Path(first.results_dir), [_name(job) for job in pack.jobs], first.force)
        if inner == "joblib":
            settings.n_jobs, settings.batch_size = min(workers, len(packs)), 1
        threads = given.threads or (1 if inner in ("joblib", "submitit_local", "ray") and not on_gpu else None)
        given_out = devices if inner == "joblib" and len(devices) > 1 else ()
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        path = (folder / f"packs-{secrets.token_hex(4)}.jsonl").absolute()
        stop_file = path.with_suffix(".stop")
        task = PackTask(packs, path, threads, given_out, stop_file, self._began)
        if stopped:
            _say(f"{sum(len(pack.jobs) for pack in stopped)} runs continue in the packs of a stopped sweep")
        _say(
            f"{len(jobs)} run{'s' * (len(jobs) > 1)} in {len(packs)} pack{'s' * (len(packs) > 1)}, "
            f"{min(workers, len(packs))} at a time (launcher {inner})"
        )
        found: dict[int, Outcome] = {}
        lost = "its worker process ended before the run did"
        with Watcher(packs, path), graceful_stop(stop_file, announce=True):
            try:
                overrides = [job_overrides[pack.jobs[0].index] for pack in packs]
                wave = workers if inner == "submitit_local" else len(packs)  # it starts all jobs at once
                for job_return in self._start(settings, task, overrides, wave):
                    found |= {ended.index: ended for ended in job_return.return_value}
            except Exception as error:  # a killed worker, a lost node: each launcher has its own
                lost = f"{lost} ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
                if inner == "submitit_slurm":
                    lost += ", or one of another pack ended and this run's job goes on (`squeue` lists it)"
            raise_if_stopped()  # finished runs stay, the others have checkpoints, slow workers need the stop file
            stop_file.unlink(missing_ok=True)
        return {job.index: found.get(job.index) or _from_folder(job, lost) for job in jobs}

    def _start(self, settings: DictConfig, task: PackTask, overrides: Overrides, wave: int) -> list[JobReturn]:
        """Run one Hydra job per pack, `wave` of them at a time."""
        config = copy.deepcopy(self.config)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.launcher = settings
            if task.threads is not None and "OMP_NUM_THREADS" not in config.hydra.job.env_set:
                config.hydra.overrides.hydra.append(f'+hydra.job.env_set.OMP_NUM_THREADS="{task.threads}"')
        made = Plugins.instance().instantiate_launcher(
            hydra_context=self.hydra_context, task_function=task, config=config
        )
        parts = [overrides[start : start + wave] for start in range(0, len(overrides), wave)]
        return [done for i, part in enumerate(parts) for done in made.launch(part, initial_job_idx=i * wave)]


def _resolve(cfg: DictConfig) -> Config | SymloraError:
    try:
        return resolve(cfg)
    except SymloraError as error:
        return error


def stopped_packs(jobs: Sequence[Job]) -> tuple[list[PackPlan], list[Job]]:
    """Find the packs of a stopped sweep.

    Returns:
        These packs as they were planned, and the jobs in none of them.
    """
    packs: list[PackPlan] = []
    left = {_name(job): job for job in jobs}
    for root in dict.fromkeys(Path(job.config.results_dir) for job in jobs):
        kept = headers(root)
        for runs in [*(header.runs for header in kept), *plans(root).values()]:
            mine = [name for name in dict.fromkeys(runs) if name in left]
            if mine and (set(mine) == set(runs) or any(header.serves(mine) for header in kept)):
                packs.append(PackPlan(tuple(left.pop(name) for name in mine)))
    return packs, list(left.values())


def _name(job: Job) -> str:
    return str(run_folder(job.config).relative_to(Path(job.config.results_dir)))


def _is_held(job: Job) -> bool:
    return holder(Path(job.config.results_dir), run_folder(job.config)) is not None


def _from_folder(job: Job, lost: str) -> Outcome:
    """Return the outcome of a run whose worker was lost."""
    folder = run_folder(job.config)
    record = None if job.config.force else read_run(folder)
    if record is not None and record["status"] == "finished":
        return outcome(job.index, folder, record)
    return Outcome(job.index, error=f"{lost}; start the same command again to train it", busy=_is_held(job))


def _say_failures(outcomes: Sequence[Outcome], job_overrides: Overrides) -> None:
    failed = [ended for ended in outcomes if ended.error is not None]
    common = set.intersection(*map(set, job_overrides)) if len(job_overrides) > 1 else set()
    for ended in failed:
        own = [override for override in filter_overrides(job_overrides[ended.index]) if override not in common]
        _say(f"error: {ended.error}  [{' '.join(own)}]")
    if failed:
        _say(f"{len(failed)} of {len(outcomes)} runs failed; the others are finished")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
