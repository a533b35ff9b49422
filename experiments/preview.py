"""What a policy will do to each layer, drawn before anything is trained."""

import shutil
import sys
import textwrap
from typing import NamedTuple

import altair as alt
import numpy as np

from optax_llr import Layers, Phase

from .config.config import Config, check_sizes
from .config.own import label
from .policies.chosen import configured
from .policies.optimizers import rotating, scheduled
from .policies.policy import Policy
from .report import charts
from .terminal.advice import advised
from .terminal.display import bar, evenly, known
from .training.compiling import policy_phases, policy_tables
from .training.program import Tables, abstract

AROUND = 8
"""Lines of the terminal beside those of layers and phases, the next prompt included."""


class Preview(NamedTuple):
    """A run under a policy, as far as it is known before."""

    layers: Layers
    tables: Tables  # the global rate and the multipliers of every step
    phases: tuple[Phase, ...]  # by which layers are frozen


def run(config: Config) -> int:
    """Draws what a policy will do, and prints it in short.

    Args:
        config: a configuration of one policy; data are read only of one's own.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: the policy measures its multipliers, a number is not one of its
            own, or it freezes all layers at once.
        OSError: the figure cannot be written.
    """
    check_sizes(config)
    (policy,) = configured(config).values()
    shown = foresee(policy, config)
    model = label(config.model)
    name = f"preview-{policy.name}-{model.replace('.py:', '-')}.png"
    path = config.out / name
    with advised(path.parent, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        charts.save(chart(shown), path)
    layers, total = len(shown.layers), config.total_steps
    print(f"{policy.name} on {model}: {layers} layers, {total:,} steps\n")
    width, height = shutil.get_terminal_size()
    print(text(shown, width, height, sys.stdout.encoding))
    print(f"\nFigure: {path}")
    return 0


def foresee(policy: Policy, config: Config) -> Preview:
    """The layers, tables and phases of a run.

    Raises:
        ValueError: as for `run`.
    """
    if policy.layering not in (scheduled, rotating):
        raise ValueError(
            f"preview: the multipliers of {policy.name!r} are measured while it "
            "trains, and not known before; `python -m experiments study --policies "
            f"{label(config.policies[0])} --seeds 1` records and draws them"
        )
    sizes = config.sizes
    layers = abstract(config, sizes.classes, sizes.shape).layers
    tables = policy_tables(policy, config, layers)
    return Preview(layers, tables, policy_phases(tables, config, layers))


def chart(shown: Preview) -> alt.HConcatChart:
    """The multipliers beside the rates that come of them."""
    names, multipliers = shown.layers.names, np.asarray(shown.tables.multipliers)
    steps = np.arange(1, len(multipliers) + 1)
    rates = np.asarray(shown.tables.rate)[:, None] * multipliers
    return alt.hconcat(
        charts.multipliers(steps, multipliers, names),
        charts.layer_values(steps, rates, names, "per-layer learning rate", "log"),
    ).resolve_scale(color="independent")


def text(shown: Preview, width: int, height: int, encoding: str | None) -> str:
    """The multipliers over time, a line for each layer, or for some of many.

    Args:
        shown: what is to be shown.
        width: of the terminal, in characters.
        height: of the terminal, in lines; the layers take what phases leave of it.
        encoding: of the terminal; digits stand in for blocks that it does not have.

    Returns:
        Lines without a final newline.
    """
    rates, multipliers = map(np.asarray, shown.tables)
    most = multipliers.max()
    blocks = known(encoding)
    legend = f"{blocks[-1]} is multiplier {most:.3g}, a dot is 0 (frozen)"
    phases = _phases(shown, width)
    rows = max(2, height - len(phases) - AROUND)
    names = shown.layers.names
    chosen = evenly(len(names), rows)
    lines = {names[i]: multipliers[:, i] / most for i in chosen}
    if left_out := len(names) - len(lines):
        legend += f"; {left_out} more layers between those shown"
    margin = max(len(name) for name in ("global rate", *lines))
    taken = evenly(len(rates), max(10, width - margin - 2))
    bars = {"global rate": rates / rates.max(), **lines}
    return "\n".join(
        [
            legend,
            *(
                f"{name:<{margin}}  {bar(values[taken], blocks)}"
                for name, values in bars.items()
            ),
            *phases,
        ]
    )


def _phases(shown: Preview, width: int) -> list[str]:
    """How many layers are frozen when, phase by phase; nothing where none ever is."""
    frozen = [len(phase.names) for phase in shown.phases]
    if not any(frozen):
        return []
    first, *later = zip(frozen, shown.phases, strict=True)
    said = f"frozen and not computed: {first[0]} of {len(shown.layers)} layers at first"
    said += "".join(f", {count} from step {phase.start:,}" for count, phase in later)
    return textwrap.wrap(said, width)
