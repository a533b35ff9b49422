"""Plots of a search: which numbers mattered, and how good runs were with which."""

import warnings
from pathlib import Path

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from ..config.measures import Measure
from ..report import charts

FEWEST = 10
"""Trials that came to an end, for plots that show more than chance."""


def write(study: optuna.Study, folder: Path, measure: Measure) -> list[str]:
    """Draws how good trials were by each number, where there is more than one number.

    Args:
        study: the search for the numbers of one policy.
        folder: for the plots; made where it is missing.
        measure: what trials are judged by.

    Returns:
        What is to be said, in lines.
    """
    complete = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    if len(complete[0].params) == 1:
        return []
    if len(complete) < FEWEST:
        return [
            f"no plots, as {len(complete)} trials came to an end, of {FEWEST} needed"
        ]
    if len({trial.value for trial in complete}) == 1:
        return ["no plots, as all trials were equally good"]
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():  # of ties among the best
        warnings.simplefilter("ignore", UserWarning)
        importance = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator()
        )
    drawn = charts.search(
        {name: [t.params[name] for t in complete] for name in complete[0].params},
        [trial.values[0] for trial in complete],
        importance,
        measure,
    )
    policy = study.study_name.partition("/")[-1]
    charts.save(drawn, folder / f"{policy}.png")
    return []
