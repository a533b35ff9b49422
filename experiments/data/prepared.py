"""Data sets that TFDS prepared, found where they lie."""

import os
import re
from pathlib import Path


class DataError(ValueError):
    """The data set is missing, damaged or not what it should be."""


def find(name: str, title: str, otherwise: str) -> Path:
    """The folder of the newest version, prepared as ArrayRecord.

    Args:
        name: what TFDS calls it.
        title: what people call it.
        otherwise: what else can be done where there is none.

    Raises:
        DataError: there is none.
    """
    data_dir = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    data_dir = Path(os.path.expanduser(data_dir))  # stays as it is without a home
    found = [
        info
        for info in data_dir.glob(f"{name}/*/dataset_info.json")
        if re.fullmatch(r"\d+\.\d+\.\d+", info.parent.name)
    ]
    if found:
        newest = max(found, key=lambda i: [int(n) for n in i.parent.name.split(".")])
        if b'"array_record"' in newest.read_bytes():
            return newest.parent
        problem = (
            f"{newest}: expected {title} as array_record, which needs no TensorFlow; "
            "it names another format."
        )
    else:
        problem = (
            f"No {title} prepared by TFDS: looked for "
            f"{data_dir / name}/<version>/dataset_info.json."
        )
    raise DataError(
        f"{problem}\nPrepare it where TensorFlow and a network are: `tfds build "
        f"{name} --file_format=array_record`, and name its data folder in "
        f"TFDS_DATA_DIR;\nor {otherwise}."
    )
