"""What rules found, as tables over time: the policies of the cell `replay`.

    python docs/studies/layer-rates/replay.py runs/layer-rates-rules

writes tables.json, of each rule the multipliers that its runs recorded, in the mean
over all seeds; and replay.json, a study of them with the rates that were tuned for the
rules, under seeds that the rules have not seen.
"""

import collections
import json
import sys
from pathlib import Path

import numpy as np

import optax_llr
from experiments.policies.policy import Expects, Policy
from experiments.records import records

HERE = Path("docs/studies/layer-rates")
TABLES = Path(__file__).with_name("tables.json")
RULES = {
    "trust_ratio": "trust-ratio",
    "hypergradient": "multiplicative-hypergradient",
}
"""By how the names of the policies below begin."""


def _replayed(rule):
    """What a rule found as a table over time, by the rule; its mean, by the table."""

    def table(layers, total_steps):
        return optax_llr.table_schedule(_table(rule, layers, total_steps))

    def mean(layers, total_steps):
        return _table(rule, layers, total_steps).mean(axis=0)

    replayed = Policy(
        f"{rule}-table",
        f"What {rule} found, as a table over time.",
        f"Ends where {rule} ends: what counts is the share of each layer.",
        control=rule,
        expects=Expects("same", "same"),
        multipliers=table,
    )
    return replayed, Policy(
        f"{rule}-mean",
        f"The mean over time of what {rule} found.",
        "The same as the table: the share of each layer counts, not its course.",
        control=replayed.name,
        expects=Expects("same", "same"),
        multipliers=mean,
    )


trust_ratio_table, trust_ratio_mean = _replayed(RULES["trust_ratio"])
hypergradient_table, hypergradient_mean = _replayed(RULES["hypergradient"])


def _table(rule, layers, total_steps):
    """(T, L), linear between the steps that were recorded, as shares of the run."""
    found = json.loads(TABLES.read_text(encoding="utf-8"))
    if list(layers.names) != found["layers"]:
        raise ValueError(f"replay: expected {found['layers']}; got {layers.names}")
    recorded = np.array(found["multipliers"][rule])  # (steps that were recorded, L)
    share = np.array(found["steps"]) / found["total_steps"]
    now = (np.arange(total_steps) + 1) / total_steps
    columns = [np.interp(now, share, column) for column in recorded.T]
    return np.stack(columns, axis=1)


def write(folder):
    """Writes tables.json and replay.json, from the records of the rules."""
    read = records.read(folder)
    rows = collections.defaultdict(list)  # by rule and step, one a seed
    ended = collections.Counter()
    for event in read.events:
        if event["kind"] == "train":
            rows[event["policy"], event["step"]].append(event["multipliers"])
        ended[event["policy"]] += event["kind"] == "end"
    seeds = len(read.config["seeds"])
    if left := [rule for rule in RULES.values() if ended[rule] < seeds]:
        raise SystemExit(f"replay: {', '.join(left)} not ended under all {seeds} seeds")
    steps = sorted({step for _, step in rows})
    means = {
        rule: [np.mean(rows[rule, step], axis=0).round(5).tolist() for step in steps]
        for rule in RULES.values()
    }
    told = {"layers": read.config["layers"]["names"], "steps": steps}
    told |= {"total_steps": read.config["total_steps"], "multipliers": means}
    TABLES.write_text(json.dumps(told) + "\n", encoding="utf-8")

    tuned = folder.with_name(f"{folder.name}.tune") / "study.json"
    study = json.loads(tuned.read_text(encoding="utf-8"))
    for begins, rule in RULES.items():
        for kind in ("table", "mean"):
            rate = study["numbers"][f"{rule}.rate"]
            study["numbers"][f"{rule}-{kind}.rate"] = rate
            study["policies"].append(f"{HERE / 'replay.py'}:{begins}_{kind}")
    study |= {"name": "layer-rates-replay", "seeds": list(range(10, 20))}
    records.write_json(HERE / "replay.json", study)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
