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

HERE = Path("docs/studies/layer-rates")
TABLES = Path(__file__).with_name("tables.json")
REPLAYED = {
    "trust_ratio_replayed": "trust-ratio",
    "trust_ratio_mean": "trust-ratio",
    "hypergradient_replayed": "multiplicative-hypergradient",
    "hypergradient_mean": "multiplicative-hypergradient",
}
"""The policies below, and the rule whose multipliers and rate they have."""


def trust_ratio_replayed(layers, total_steps):
    """What trust-ratio found, as a table over time.

    Ends where trust-ratio ends: what counts is the share of each layer.
    """
    return optax_llr.table_schedule(_table("trust-ratio", layers, total_steps))


def trust_ratio_mean(layers, total_steps):
    """The mean over time of what trust-ratio found.

    The same as its table: the share of each layer counts, not its course.
    """
    return _table("trust-ratio", layers, total_steps).mean(axis=0)


def hypergradient_replayed(layers, total_steps):
    """What multiplicative-hypergradient found, as a table over time.

    Ends where the rule ends: what counts is the share of each layer.
    """
    found = _table("multiplicative-hypergradient", layers, total_steps)
    return optax_llr.table_schedule(found)


def hypergradient_mean(layers, total_steps):
    """The mean over time of what multiplicative-hypergradient found.

    The same as its table: the share of each layer counts, not its course.
    """
    return _table("multiplicative-hypergradient", layers, total_steps).mean(axis=0)


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
    from experiments.records import records

    read = records.read(folder)
    rows = collections.defaultdict(list)  # by rule and step, one a seed
    for event in read.events:
        if event["kind"] == "train":
            rows[event["policy"], event["step"]].append(event["multipliers"])
    steps = sorted({step for _, step in rows})
    means = {
        rule: [np.mean(rows[rule, step], axis=0).round(5).tolist() for step in steps]
        for rule in REPLAYED.values()
    }
    told = {"layers": read.config["layers"]["names"], "steps": steps}
    told |= {"total_steps": read.config["total_steps"], "multipliers": means}
    TABLES.write_text(json.dumps(told) + "\n", encoding="utf-8")

    best = folder.with_name(f"{folder.name}.tune") / "best.json"
    study = json.loads(best.read_text(encoding="utf-8"))
    rates = {name: study["numbers"][f"{rule}.rate"] for name, rule in REPLAYED.items()}
    study["numbers"] |= {f"{name}.rate": rate for name, rate in rates.items()}
    study["policies"] += [f"{HERE / 'replay.py'}:{name}" for name in REPLAYED]
    study |= {"name": "layer-rates-replay", "seeds": list(range(10, 20))}
    records.write_json(HERE / "replay.json", study)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
