"""Objects of one's own: a function or class, or FILE.py:NAME, which names one.

The record of a study keeps the file of each with its SHA-256. What that file imports is
not looked at.
"""

import functools
import hashlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NamedTuple, cast

import numpy as np
import pydantic
from tyro.constructors import PrimitiveConstructorSpec

from . import texts

REFERENCE = re.compile(r"(.+\.py):([^\W\d]\w*)")
METAVAR = "FILE.py:NAME"
OURS = Path(__file__).resolve().parents[1]


Own = Annotated[
    str | Callable[..., Any],
    pydantic.SkipValidation,  # `is_own` says what may stand there
    PrimitiveConstructorSpec(
        nargs=1,
        metavar=METAVAR,
        instance_from_str=lambda words: words[0],
        is_instance=lambda value: isinstance(value, str) or is_own(value),
        str_from_instance=lambda value: [label(value)],
    ),
]
"""FILE.py:NAME, as the command line has it, or from Python the object itself."""


def is_own(value: Any) -> bool:
    """Whether a value is an object of the user's, or names one."""
    if isinstance(value, str):
        return bool(REFERENCE.fullmatch(value))
    return callable(value) or hasattr(value, "multipliers")  # the latter: a policy


def label(value: Any) -> str:
    """What a value is called in records: a name as it is, else FILE.py:NAME."""
    if isinstance(value, str):
        is_path = is_own(value) or value.endswith(texts.FILE)
        return Path(value).name if is_path else value
    if hasattr(value, "multipliers"):  # a policy
        return value.name
    return f"{source_file(value).name}:{_name(value)}"


def resolve(value: Any) -> Any:
    """The object that FILE.py:NAME names; of an object, itself.

    Raises:
        ValueError: in one line: there is no such file or name, the file fails, or the
            name is that of something else than a function, class or policy.
    """
    if not isinstance(value, str):
        return value
    reference = REFERENCE.fullmatch(value)
    if reference is None:
        raise ValueError(f"expected {METAVAR}, got {value!r}")
    path, name = Path(reference[1]).resolve(), reference[2]
    names = vars(module(path))
    if name not in names:
        has = ", ".join(n for n in names if not n.startswith("_")) or "nothing"
        raise ValueError(f"{value!r}: {path.name} has no {name!r}; it has {has}")
    if not is_own(found := names[name]):
        raise ValueError(f"{value!r}: expected a function or class, got {found!r:.200}")
    return found


def source_file(value: Any) -> Path:
    """The file that an object of the user's, or FILE.py:NAME, stands in.

    Raises:
        ValueError: there is none, such as for a function typed at a prompt.
    """
    if isinstance(value, str) and (found := REFERENCE.fullmatch(value)):
        return Path(found[1])
    try:
        path = Path(inspect.getsourcefile(cast(Any, value)) or "")
    except TypeError:
        path = Path()
    if not path.is_file():
        raise ValueError(
            f"expected a function or class that stands in a file, which the record "
            f"keeps; got {value!r:.200}"
        )
    return path


def files(values: Iterable[Any]) -> dict[str, Path]:
    """The files of all that is the user's among these values, by their names.

    Raises:
        ValueError: two files have one name, or an object stands in none.
    """
    found: dict[str, Path] = {}
    for value in filter(is_own, values):
        if hasattr(value, "multipliers"):  # a policy, of which what it computes counts
            parts = (value.multipliers, value.layering)
            made_by = [getattr(part, "func", part) for part in parts]
        else:
            made_by = [value]
        for part in made_by:
            path = source_file(part).resolve()
            if OURS in path.parents:
                continue
            if found.setdefault(path.name, path) != path:
                raise ValueError(
                    f"two files are called {path.name!r}, {str(found[path.name])!r} "
                    f"and {str(path)!r}: the record keeps both, so rename one"
                )
    return found


def hashes(values: Iterable[Any]) -> dict[str, str]:
    """SHA-256 of the content of those files, by their names."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in files(values).items()
    }


class Arrays(NamedTuple):
    """A data set as its loader gives it."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@functools.cache
def arrays(value: Any) -> Arrays:
    """Loads a data set of one's own, once.

    Args:
        value: a function without arguments, or FILE.py:NAME. It returns ((images,
            labels), (images, labels)) to train on and to test on, as Keras has it:
            images (n, height, width, channels), uint8, and labels (n,), whole numbers
            from 0 up.

    Raises:
        ValueError: it returns something else.
    """
    name, wanted = f"data: {label(value)}", "((images, labels), (images, labels))"
    try:
        given = resolve(value)()
    except OSError as error:
        raise ValueError(f"{name} cannot read its files: {error}") from error
    try:
        train, test = ((images, labels) for images, labels in given)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} must return {wanted}; got {type(given).__name__}"
        ) from None
    found = Arrays(*map(np.asarray, (*train, *test)))
    for part, images, labels in (("train", *found[:2]), ("test", *found[2:])):
        if images.ndim != 4 or images.dtype != np.uint8:
            raise ValueError(
                f"{name}, {part} images: expected (n, height, width, channels), uint8; "
                f"got {images.shape}, {images.dtype}"
            )
        if (
            not labels.size
            or labels.shape != images.shape[:1]
            or labels.dtype.kind not in "iu"
            or labels.min() < 0
            or labels.max() < (part == "train")
        ):
            raise ValueError(
                f"{name}, {part} labels: expected ({len(images)},), whole numbers from "
                "0 up, one an image, of two classes or more; got "
                f"{labels.shape}, {labels.dtype}: {np.unique(labels)[:9]}"
            )
    shapes = found.train_images.shape[1:], found.test_images.shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{name}: images to train on are {shapes[0]} and to test on {shapes[1]}; "
            "expected the same height, width and channels"
        )
    return found


@functools.cache
def module(path: Path) -> ModuleType:
    """A file of the user's, run once; beside it lies what it may import."""
    if not path.is_file():
        raise ValueError(f"{str(path)!r} does not exist: expected a file for {METAVAR}")
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = made  # where dataclasses and pickle look for it
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(made)
    except Exception as error:
        raise ValueError(
            f"{str(path)!r} cannot be run: {type(error).__name__}: {error}"
        ) from error
    return made


def _name(value: Any) -> str:
    return getattr(value, "__name__", type(value).__name__)
