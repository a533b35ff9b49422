"""Plots of a search: which numbers mattered, and which went with which accuracy."""

import warnings
from pathlib import Path

import matplotlib
import optuna
import optuna.visualization.matplotlib as plots
from matplotlib import pyplot
from matplotlib.ticker import LogFormatter
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import TrialState

TARGET = "validation accuracy"
SIZE = (9, 4)  # in inches
FEWEST = 10
"""Trials that came to an end, for plots that show more than chance."""


def write(study: optuna.Study, folder: Path) -> list[str]:
    """Draws importance and parallel coordinates, where there is more than one number.

    Args:
        study: the search for the numbers of one policy.
        folder: for the plots; made where it is missing.

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
        return ["no plots, as all trials were equally accurate"]
    folder.mkdir(exist_ok=True)
    matplotlib.use("agg")  # Optuna draws with pyplot, which may look for a screen
    draw = {
        "importance": lambda: plots.plot_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target_name=TARGET
        ),
        "parallel": lambda: plots.plot_parallel_coordinate(study, target_name=TARGET),
    }
    policy = study.study_name.partition("/")[-1]
    for name, plot in draw.items():
        literal = matplotlib.rc_context({"text.parse_math": False})
        with literal, warnings.catch_warnings():  # of ties among the best
            warnings.simplefilter("ignore", UserWarning)
            plot()
        page = pyplot.gcf()
        for axes in page.axes:
            axes.set_title("")
            axes.grid(False)  # each axis would have its own across the others
            if axes.get_yscale() == "log":
                axes.yaxis.set_major_formatter(_Plain())
                axes.yaxis.set_minor_formatter(_Plain())
        page.axes[0].set_title(f"{policy}: {len(complete)} trials", loc="left")
        page.set_size_inches(SIZE)
        page.savefig(folder / f"{policy}-{name}.png", bbox_inches="tight", dpi=120)
        pyplot.close(page)
    return []


class _Plain(LogFormatter):
    """Labels where Matplotlib wants some on a log scale, as 0.3 rather than 3e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""
