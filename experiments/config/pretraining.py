"""The run that makes the weights which a study starts from."""

import dataclasses
from pathlib import Path

from .config import Config


def pretraining(config: Config) -> Config:
    """A study of one run, of uniform rates on all images of its classes.

    What else the study says holds for it too: model, data, rates, augmentation.
    """
    return dataclasses.replace(
        config,
        name=f"{config.name}.pretrained",
        policies=("uniform",),
        numbers={},
        seeds=1,
        epochs=config.pretrain_epochs,
        pretrain_epochs=0.0,
        classes=config.pretrain_classes,
        pretrain_classes=(),
        train_fraction=1.0,
        images_per_class=None,
        label_noise=0.0,
        shift="none",
        norm_statistics="running",
        new_head=True,
        keep_weights=True,
        measurements=0,
        stack=1,
    )


def pretrained_run(config: Config) -> Path:
    """The folder of that run."""
    (seed,) = (first := pretraining(config)).run_seeds
    return first.out / first.name / f"uniform-{seed}"
