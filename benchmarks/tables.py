"""Writes the tables of both READMEs from the records, so that neither drifts.

    python benchmarks/tables.py

A table stands right behind a comment such as `<!-- update: cpu/update.json -->`, which
names a function of this module and a record under `results/`, or a folder of them.
`tests/test_tables.py` fails where a README holds anything else than its records do.
"""

import json
import pathlib
import re
import statistics
from collections.abc import Callable, Iterable
from typing import Any

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
READMES = (HERE / "README.md", HERE.parent / "README.md")
TABLE = re.compile(r"<!-- (\w+): ([\w./-]+) -->\n((?:\|.*\n)*)")
OPTIMIZERS = {"sgd+momentum": "SGD + momentum", "adam": "Adam"}
Record = dict[str, Any]
Rows = list[list[str]]
"""Cells, the headings first."""


def update(record: Record) -> Rows:
    """What layers, or an optimizer for each, cost an update."""
    return [
        ["layers", "optimizer", "form", "trace", "compile", "step"],
        *(
            [
                f"{found['layers']:,}{' stacked' * found['stacked']}",
                OPTIMIZERS[found["optimizer"]],
                found["form"],
                *(spread(found[phase]) for phase in ("trace", "compile", "step")),
            ]
            for found in record["results"]
            if found["form"] != "alone"
        ),
    ]


def unfreezing(record: Record) -> Rows:
    """What it costs that each layer has a count of its own."""
    return [
        ["layers", "equations", "trace", "compile", "step"],
        *(
            [f"{found['layers']:,}", f"{found['equations']['ratio']:.2f}"]
            + [spread(found[phase]) for phase in ("trace", "compile", "step")]
            for found in record["results"]
            if found["form"] == "phase"
        ),
    ]


def train_step(record: Record) -> Rows:
    """What layers cost a training step, and how far two equal programs differ."""
    return [
        ["model", "batch", "step alone", "with layers", "alone, compiled again"],
        *(
            [
                model,
                f"{batch:,}",
                f"{forms['alone']['seconds'] * 1e3:,.0f} ms",
                spread(forms["layers"], 3),
                spread(forms["again"], 3),
            ]
            for (model, batch), forms in grouped(
                record["results"], ("model", "batch"), "form"
            )
        ),
    ]


def rules(record: Record) -> Rows:
    """Memory, passes and time of each rule."""
    headings = ["rule", "memory"]
    for name in OPTIMIZERS.values():
        headings += [f"passes, {name}", "step"]
    rows = [headings]
    for (rule,), found in grouped(record["results"], ("form",), "optimizer"):
        if rule not in ("alone", "none"):
            row = [rule, f"{found['adam']['memory']:.0f}"]
            for optimizer in OPTIMIZERS:
                passes = f"{found[optimizer]['passes']:.1f}".removesuffix(".0")
                row += [passes, spread(found[optimizer]["step"])]
            rows.append(row)
    return rows


def freeze(record: Record) -> Rows:
    """What frozen layers save, as predicted and as measured."""
    return [
        ["model", "schedule", "phases", "predicted", "measured", "saving", "run"],
        *(
            [
                found["model"],
                f"{'linear' if found['power'] == 1 else 'cubic'}, {found['t0']}",
                str(len(found["phases"])),
                f"{found['predicted']:.3f}",
                f"{found['measured']:.3f}",
                f"{found['of_predicted']:.2f}",
                f"{found['run']:.3f}",
            ]
            for found in record["results"]
        ),
    ]


def population(record: Record) -> Rows:
    """Runs an hour, stacked and in processes of their own."""
    base = record["stacked"][0]["steps_a_second"]
    rows = [["how", "runs an hour", "steps, by those of one"]]
    for found in record["stacked"]:
        one = found["size"] == 1
        ratios = [
            ours / theirs
            for ours, theirs in zip(found["steps_a_second"], base, strict=True)
        ]
        rows.append(
            [
                "one process, one after the other"
                if one
                else f"{found['size']} stacked",
                f"{found['runs_an_hour']:.0f}",
                spread(ratio_of(ratios)),
            ]
        )
    for found in record["apart"]:
        many = f"processes, {found['processes']} at a time"
        rows.append([many, f"{found['runs_an_hour']:.0f}", ""])
    return rows


def loop(record: Record) -> Rows:
    """What the training loop costs beside its step."""
    return [
        ["model", "form", "images/s", "ratio to step"],
        *(
            [
                found["model"],
                found["form"],
                f"{found['images_per_second']:,.0f}",
                spread(found),
            ]
            for found in record["results"]
        ),
    ]


def speedrun(record: Record) -> Rows:
    """Accuracy under each policy on the way and at the end."""
    looks = [step for step, *_ in record["results"][0]["curve"]]
    rows = [["policy", "n", *(f"{step} steps" for step in looks)]]
    control = record["summary"][0]["policy"]
    rows[0] += [f"{record['steps']} steps, %", f"by {control}, points", "seconds"]
    for row in record["summary"]:
        runs = chosen(record, policy=row["policy"])
        curves = [[accuracy for _, accuracy in run["curve"]] for run in runs]
        on_the_way = [
            f"{100 * statistics.fmean(c):.1f}" for c in zip(*curves, strict=True)
        ]
        rows.append(
            [
                row["policy"],
                str(row["n"]),
                *on_the_way,
                deviating(row["accuracy"], 100),
                paired(row["accuracy"].get(f"minus_{control}")),
                deviating(row["seconds"], 1),
            ]
        )
    return rows


def costs(records: dict[str, Record]) -> Rows:
    """The figures that matter most, one a question.

    Raises:
        ValueError: if there are not all the records that it is made of.
    """
    wanted = {"train_step", "update", "loop", "freeze_runs"}
    if missing := wanted - records.keys():
        raise ValueError(
            f"expected records named {', '.join(sorted(wanted))} in one folder; "
            f"{', '.join(sorted(missing))} are missing"
        )
    phases = ("trace", "compile", "step")
    (step,) = chosen(records["train_step"], model="resnet20", batch=128, form="layers")
    (loops,) = chosen(records["loop"], model="resnet20", form="loop")
    longer = ratio_of([1 / loops[key] for key in ("ratio", "ratio_min", "ratio_max")])
    frozen = records["freeze_runs"]
    points = f"{100 * frozen['accuracy_difference']['mean']:+.1f}".replace("-", "−")
    rows = [
        [machine(records.values()), "trace", "compile", "time", "`benchmarks/`"],
        ["training step of ResNet-20 with layers", "", "", spread(step), "train_step"],
    ]
    for form, words in (
        ("layers", "with layers"),
        ("partition", "with `optax.partition`, an optimizer a layer"),
    ):
        (found,) = chosen(
            records["update"], layers=500, optimizer="sgd+momentum", form=form
        )
        cells = [spread(found[phase]) for phase in phases]
        rows.append([f"update of 500 layers, SGD, {words}", *cells, "update"])
    time = f"{spread(ratio_of(frozen['time_ratio']))}, {points} points of accuracy"
    return [
        *rows,
        ["training loop, by its bare step", "", "", spread(longer), "loop"],
        ["whole run of ResNet-20 under FreezeOut", "", "", time, "freeze_runs"],
    ]


def chosen(record: Record, **wanted: Any) -> list[dict[str, Any]]:
    """The results that are so."""
    return [
        found
        for found in record["results"]
        if all(found[field] == value for field, value in wanted.items())
    ]


def grouped(
    results: Iterable[dict[str, Any]], by: tuple[str, ...], each: str
) -> list[tuple[tuple[Any, ...], dict[str, dict[str, Any]]]]:
    """Results that are alike in some fields, told apart by another."""
    groups: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for found in results:
        key = tuple(found[field] for field in by)
        groups.setdefault(key, {})[found[each]] = found
    return list(groups.items())


def ratio_of(ratios: list[float]) -> dict[str, float]:
    """Their median and range, as records have them."""
    return {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def spread(found: dict[str, float], digits: int = 2) -> str:
    """A median with its range."""
    low, high = found["ratio_min"], found["ratio_max"]
    return f"{found['ratio']:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def deviating(measure: dict[str, Any], scale: float) -> str:
    """A mean with its standard deviation."""
    sd = "" if measure["sd"] is None else f" ± {scale * measure['sd']:.2f}"
    return f"{scale * measure['mean']:.2f}{sd}"


def paired(difference: dict[str, Any] | None) -> str:
    """A mean of paired differences in points, with its 95 % interval."""
    if difference is None:
        return ""
    text = f"{100 * difference['mean']:+.2f}"
    if difference["interval"]:
        low, high = (100 * bound for bound in difference["interval"])
        text += f" ({low:+.2f} to {high:+.2f})"
    return text.replace("-", "−")


def machine(records: Iterable[Record]) -> str:
    """Where figures were taken, which must be one place."""
    where = {
        (about["device"], about["cpus"], about["jax"])
        for about in (record["environment"] for record in records)
    }
    if len(where) > 1:
        raise ValueError(
            "expected records of one machine and one JAX, to stand in one table; got "
            f"{sorted(where)}: run the older benchmarks again"
        )
    ((device, cpus, version),) = where
    name = f"machine with {cpus} CPU cores" if device == "cpu" else device
    return f"{name}, JAX {version}"


def markdown(rows: Rows) -> str:
    """A table, its cells as they are."""
    ruled = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ruled)


def filled(text: str) -> str:
    """A page with its tables as the records have them.

    Raises:
        ValueError: if a comment names no table of this module.
        OSError: if it names no record.
    """

    def replaced(found: re.Match[str]) -> str:
        name, source, _ = found.groups()
        if name not in TABLES:
            raise ValueError(
                f"expected one of {', '.join(TABLES)} in {found[0].splitlines()[0]!r}"
            )
        rows = TABLES[name](read(RESULTS / source))
        return f"<!-- {name}: {source} -->\n{markdown(rows)}"

    return TABLE.sub(replaced, text)


def read(path: pathlib.Path) -> Any:
    """A record, or those of a folder by their names."""
    if path.is_dir():
        return {one.stem: read(one) for one in sorted(path.glob("*.json"))}
    return json.loads(path.read_text(encoding="utf-8"))


TABLES: dict[str, Callable[[Any], Rows]] = {
    "update": update,
    "unfreezing": unfreezing,
    "train_step": train_step,
    "rules": rules,
    "freeze": freeze,
    "population": population,
    "loop": loop,
    "speedrun": speedrun,
    "costs": costs,
}


def main() -> None:
    """Fills the tables of both pages."""
    for page in READMES:
        page.write_text(filled(page.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
