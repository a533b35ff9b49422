"""Writes the folder of a study as a study leaves it, from events."""

from experiments.records import checksums, records

TRAIN = {
    "kind": "train",
    "policy": "uniform",
    "seed": 0,
    "step": 8,
    "images": 256,
    "seconds": 0.5,
    "loss": 2.3,
    "accuracy": 0.1,
    "rate": 0.02,
    "multipliers": [1.0, 1.0],
}
END = {
    **{key: TRAIN[key] for key in ("policy", "seed", "step", "images", "seconds")},
    "kind": "end",
    "status": "finished",
    "test_loss": 1.5,
    "test_accuracy": 0.5,
    "params_sha256": "c0ffee",
}
CONFIG = {
    **records.defaults(),
    "name": "demo",
    "model": "cnn-shallow",
    "data": "sample",
    "seeds": [0],
    "thresholds": [0.3],
    "layers": {"names": ["conv1", "head"], "level": [0, 1], "members": {}},
    "policies": {
        "uniform": {
            "summary": "s",
            "expectation": "e",
            "source": "o",
            "control": "uniform",
        }
    },
    "total_steps": 8,
}
SESSION = {
    "started": "2026-01-01T00:00:00+00:00",
    "command": ["python"],
    "commit": None,
    "dirty": None,
    "versions": {},
    "device": {"kind": "cpu", "count": 1},
    "data_checksum": "c0ffee",
}


def study(folder, events, config=CONFIG, sessions=(SESSION,)):
    """Writes config.json, env.json and the lines of every run; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    records.write_json(folder / "config.json", config)
    records.write_json(folder / "env.json", {"sessions": sessions})
    runs = {}
    for event in events:
        runs.setdefault((event["policy"], event["seed"]), []).append(event)
    for (policy, seed), lines in runs.items():
        run = records.run_folder(folder, policy, seed)
        run.mkdir()
        write(run / "timings.jsonl", [timing(event) for event in lines])
        write(run / "metrics.jsonl", [without_seconds(event) for event in lines])
    return folder


def write(path, lines):
    """Writes lines with their checksums, whatever they hold."""
    writer = checksums.Writer(path)
    for line in lines:
        writer.write(records.plain(line))
    writer.close()


def timing(event):
    return {"step": event["step"], "seconds": event["seconds"]}


def without_seconds(event):
    return {key: value for key, value in event.items() if key != "seconds"}
