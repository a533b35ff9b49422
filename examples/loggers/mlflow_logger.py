"""Shows MLflow what a study does: `--logger mlflow_logger.py:Logger`."""

import mlflow


class Logger:
    def __init__(self, folder, step, layers):
        self.client = mlflow.MlflowClient(f"sqlite:///{folder.parent / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(folder.parent.name)
        number = found.experiment_id if found else None
        number = number or self.client.create_experiment(folder.parent.name)
        self.run = self.client.create_run(number, run_name=folder.name).info.run_id

    def write(self, event):
        for name, value in event.items():
            if isinstance(value, float):
                name = f"{event['kind']}/{name}"
                self.client.log_metric(self.run, name, value, step=event["step"])

    def close(self):
        self.client.set_terminated(self.run)
