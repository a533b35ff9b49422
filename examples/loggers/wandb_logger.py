"""Shows Weights & Biases what a study does: `--logger wandb_logger.py:Logger`."""

import json

import wandb


class Logger:
    def __init__(self, folder, step, layers):
        config = json.loads((folder / "config.json").read_text())
        about = {"project": config["name"], "name": folder.name, "config": config}
        # Of several runs at once each has its own.
        self.run = wandb.init(mode="offline", dir=folder, reinit="create_new", **about)

    def write(self, event):
        numbers = {k: v for k, v in event.items() if isinstance(v, float)}
        kind, step = event["kind"], event["step"]
        self.run.log({f"{kind}/{name}": v for name, v in numbers.items()}, step=step)

    def close(self):
        self.run.finish()
