"""A search for the best numbers of each policy, judged by the validation images.

Every trial trains once, with numbers that Optuna's TPE sampler proposes, and is given
up where it stays behind the median of earlier trials. All trials train with one seed,
which no study has: they differ in their numbers, not in their luck.

What makes a comparison of tuned policies fair: each gets as many finished trials, in
turn, one of them with its own numbers; and no trial has the test images.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from ..asked import computed, keep_files
from ..config import own
from ..config.config import Config
from ..data.dataset import Dataset
from ..policies.chosen import configured
from ..records import records, run_directory, weights
from ..records.environment import environment
from ..terminal import display, signals
from ..terminal.advice import advised
from ..training.program import abstract
from ..training.trainer import Trainer
from . import results as tune_results
from .search import Search
from .trials import PolicySearch

ELSEWHERE = {*run_directory.MANNERS, "policies", "seeds", "thresholds"}
"""Fields that change nothing in what a trial of one policy finds out."""


def run(
    search: Search,
    dataset: Dataset,
    command: Sequence[str],
    make_trainer: Callable[[Config, Dataset], Trainer] = Trainer,
) -> int:
    """Searches, or goes on with a search, until every policy has its trials.

    Any number of processes may be at work on one search; each ends when all is done.

    Args:
        search: a valid one.
        dataset: the one it names.
        command: the command line as the user typed it.
        make_trainer: makes what trains.

    Returns:
        An exit status: 0; 130 after SIGINT (Ctrl-C); 143 after SIGTERM.

    Raises:
        DataError: the data set is not the one that the configuration names.
        ValueError: the search was begun with another configuration or other data, or
            its storage cannot be opened.
        OSError: the folder cannot be made or written.
    """
    console = display.console()
    say = functools.partial(console.print, soft_wrap=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with advised(search.folder), warnings.catch_warnings():
        search.folder.mkdir(parents=True, exist_ok=True)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        with signals.patience():
            searches = _begin(search, environment(command, dataset.checksum), say)
        keep_files(search.config, search.folder)
        try:
            if any(policy.left for policy in searches):
                # The trainer scores, at the end, what it is told are test images.
                blind = dataclasses.replace(dataset, test=dataset.validation)
                _work(searches, make_trainer(search.config, blind), say)
            tune_results.show(search, searches, console)
        except signals.Stop as stop:
            say(f"Stopped by {stop}; the same command goes on from here.")
            if done := min(len(policy.counted()) for policy in searches):
                say(f"--trials {done} shows what the first {done} of each policy found")
            return stop.status
    return 0


def _begin(
    search: Search, session: Mapping[str, Any], say: Callable[[str], None]
) -> list[PolicySearch]:
    """The searches of all policies; refuses those that were begun otherwise."""
    config, storage, searches = search.config, _storage(search), list[PolicySearch]()
    record, versions = config.record(), session["versions"]
    files = own.hashes((config.model, config.data, config.optimizer))
    asked = {field: record[field] for field in record if field not in ELSEWHERE} | {
        "search_seed": search.search_seed,
        "data_checksum": session["data_checksum"],
        "files": files | weights.hashes(config.init_from),
    }
    computes = computed(config, abstract(config, *config.sizes[1:]).layers)
    for name, policy in configured(config).items():
        searches.append(PolicySearch(search, policy, storage))
        _check_begun(searches[-1].study, records.plain(asked), computes[name], versions)
    begun = searches[0].study.user_attrs["versions"]
    if begun != versions:
        say(f"begun with versions {begun}, now {versions}")
    return searches


def _storage(search: Search) -> BaseStorage:
    if search.storage is None:
        # Optuna's lock is a symbolic link, which must be found from where it lies.
        path = (search.folder / "journal.log").resolve()
        try:
            return JournalStorage(JournalFileBackend(str(path)))
        except ValueError as error:
            raise ValueError(
                f"{str(path)!r} is damaged: {error}. Restore it, or give another --name"
            ) from None
    try:
        return _database(search.storage)
    except (ImportError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            "storage must be the URL of a database that can be opened, such as "
            f"sqlite:///search.db, with its driver installed; got {reason}"
        ) from None


def _database(url: str, tries: int = 5) -> BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except sqlalchemy.exc.DBAPIError as error:
        # Optuna fails where another worker makes its tables at the same moment.
        if tries == 1 or "already exists" not in str(error):
            raise
    return _database(url, tries - 1)


def _check_begun(
    study: optuna.Study,
    asked: Mapping[str, Any],
    computes: Mapping[str, Any],
    versions: Mapping[str, str],
) -> None:
    """Writes down what a search is begun with; refuses to go on with another."""
    found = study.user_attrs
    before = found.get("begun", asked)
    if "source" in before:  # as older versions called the data
        before |= {"data_checksum": before["data"], "data": before.pop("source")}
    name = study.study_name
    differing, _ = run_directory.otherwise(
        {name: {"computes": found.get("computes", computes)}},
        {name: {"computes": computes}},
    )
    differing += run_directory.differences(before, {**dict.fromkeys(before), **asked})
    if differing:
        raise ValueError(
            f"the search {name!r} was begun otherwise: {'; '.join(differing)}. Give "
            "the same to go on with it, or another --name"
        )
    begun = {"versions": versions, "begun": asked, "computes": computes}
    for field, value in begun.items():
        if field not in found:
            study.set_user_attr(field, value)


def _work(
    searches: list[PolicySearch], trainer: Trainer, say: Callable[[str], None]
) -> None:
    """One trial after another, of the policy that has the fewest.

    With patience, as a signal inside Optuna's journal would be lost in its lock.
    """
    while left := [policy for policy in searches if policy.left]:
        with signals.patience():
            say(min(left, key=PolicySearch.turn).try_once(trainer))
