"""The trials of one policy: which numbers are tried, and what comes of them."""

import hashlib
import math

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from ..config.measures import Measure
from ..policies.policy import Policy
from ..records import records
from ..records.journal import Forgetful
from ..terminal.progress import Progress
from ..training.trainer import Trainer
from .search import Search

SEED = 2**31
"""Of all trials; those of studies are below it."""
WARMUP = 0.3
"""Share of a run before it may be pruned: `onecycle` warms up for as long."""
OWN = "own"
"""Marks the trial of the numbers that the policy has without a search."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class PolicySearch:
    """The search for the numbers of one policy.

    Attributes:
        name: of the policy.
        study: Optuna's, which workers share.
    """

    def __init__(self, search: Search, policy: Policy, storage: BaseStorage):
        """Takes a policy as it is without a search, and where its trials are kept."""
        self.name, self._policy = policy.name, policy
        self._total, self._trials = search.config.total_steps, search.each
        self._numbers, self._rates = policy.numbers(search.config.rate), search.rates
        self._measure = search.config.measure
        self.study = optuna.create_study(
            study_name=f"{search.config.name}/{policy.name}",
            storage=storage,
            sampler=_Seeded(search.search_seed, policy.name),
            pruner=optuna.pruners.NopPruner()
            if search.rates
            else optuna.pruners.MedianPruner(
                n_warmup_steps=round(WARMUP * self._total)
            ),
            direction="maximize" if self._measure.larger else "minimize",
            load_if_exists=True,
        )

    def counted(self) -> list[FrozenTrial]:
        """The finished trials that are compared: its own, and the first of the others.

        Or the first of each rate. Several workers may finish more than are asked for.
        """
        finished = sorted(
            self._in(*FINISHED), key=lambda t: (t.datetime_complete, t.number)
        )
        if self._rates:
            first = {trial.params["rate"]: trial for trial in reversed(finished)}
            return [first[rate] for rate in sorted(self._rates) if rate in first]
        own = [trial for trial in finished if OWN in trial.user_attrs]
        others = [trial for trial in finished if OWN not in trial.user_attrs]
        return own[:1] + others[: self._trials - 1]

    @property
    def left(self) -> int:
        """How many trials are still to be finished."""
        return self._trials - len(self.counted())

    def turn(self) -> tuple[int, int]:
        """What is least for the policy that goes next."""
        return len(self.counted()), len(self._in(TrialState.RUNNING))

    def try_once(self, trainer: Trainer) -> str:
        """Trains with other numbers; says in a line what came of it."""
        trial = self._ask()
        title = f"{self.name}, trial {len(self.counted()) + 1}/{self._trials}"
        with Progress(title, 0, self._total, self._measure) as progress:
            watched = _Watched(trial, self._total, progress, self._measure)
            try:
                trainer.run(self._policy.having(trial.params), SEED, watched)
                value, state = watched.value, TrialState.COMPLETE
            except optuna.TrialPruned:
                value, state = None, TrialState.PRUNED
            except BaseException:  # also a signal: what was stopped does not count
                self.study.tell(trial, state=TrialState.FAIL)
                raise
        trial.set_user_attr("status", watched.status)
        trial.set_user_attr("steps", watched.step)
        self.study.tell(trial, value, state)
        found = self._measure.said(watched.found)
        ended = f"{watched.status} after {watched.step:,} steps"
        return f"{title}: {ended}, validation {found}"

    def _ask(self) -> optuna.Trial:
        numbers = self._numbers[:1] if self._rates else self._numbers
        if self._rates:
            self.study.enqueue_trial({"rate": self._rate()})
        elif self._wants_own():
            own = {number.name: number.value for number in numbers}
            self.study.enqueue_trial(own, user_attrs={OWN: True})
        ranges: dict[str, BaseDistribution] = {
            number.name: FloatDistribution(number.low, number.high, log=number.log)
            for number in numbers
        }
        return self.study.ask(ranges)

    def _rate(self) -> float:
        """The first that is not done, nor, if there is one, under way elsewhere."""
        done = {trial.params["rate"] for trial in self._in(*FINISHED)}
        begun = {trial.params["rate"] for trial in self._in(TrialState.RUNNING)}
        left = [rate for rate in self._rates if rate not in done]
        return next((rate for rate in left if rate not in begun), left[0])

    def _wants_own(self) -> bool:
        """Whether it is time for the policy's own numbers: first, or at last.

        A worker that was to try them may have been killed.
        """
        finished = [OWN in trial.user_attrs for trial in self._in(*FINISHED)]
        begun = self._in(TrialState.WAITING, TrialState.RUNNING)
        tried = any(OWN in trial.user_attrs for trial in begun)
        return not any(finished) and (not tried or len(finished) >= self._trials - 1)

    def _in(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)


class _Watched(Forgetful):
    """The journal of a trial, which keeps no records; ends it where it is behind.

    Attributes:
        step: of the last event.
        found: how good it was at the last evaluation.
        status: pruned unless the run comes to an end, which may be diverged.
    """

    def __init__(
        self,
        trial: optuna.Trial,
        total_steps: int,
        progress: Progress,
        measure: Measure,
    ):
        self.step, self.found, self.status = 0, measure.worst, "pruned"
        self._trial, self._total, self._progress = trial, total_steps, progress
        self._measure = measure

    @property
    def value(self) -> float:
        """What the search is to make large, or small."""
        return self._measure.worst if self.status == "diverged" else self.found

    def write(self, event: records.Event) -> None:
        """Reports an evaluation; raises `optuna.TrialPruned` where that is poor."""
        self._progress.show(event)
        self.step = event["step"]
        if event["kind"] == "end":
            self.status = event["status"]
        elif event["kind"] == "validation" and math.isfinite(event["loss"]):
            self.found = event[self._measure.name]
            self._trial.report(self.found, self.step)
            spared = OWN in self._trial.user_attrs or self.step == self._total
            if not spared and self._trial.should_prune():
                raise optuna.TrialPruned


class _Seeded(optuna.samplers.TPESampler):
    """TPE with a seed of its own for each trial.

    So one worker gives the same search each time, also where it was stopped (of trials
    that failed none counts), and two workers do not propose the same.
    """

    def __init__(self, search_seed: int, policy: str):
        super().__init__()
        self._of = f"{search_seed} {policy}"

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        before = sum(
            other.number < trial.number and other.state != TrialState.FAIL
            for other in study.get_trials(deepcopy=False)
        )
        digest = hashlib.sha256(f"{self._of} {before}".encode()).digest()
        super().__init__(seed=int.from_bytes(digest[:4]))
        super().before_trial(study, trial)
