import dataclasses
import json

import pytest

from experiments.config import files
from experiments.config.config import PRESETS, Config
from experiments.records.records import plain


def written(tmp_path, value):
    path = tmp_path / "mine.json"
    text = value if isinstance(value, str | bytes) else json.dumps(value)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_fields_that_are_not_named_are_the_demo_s(tmp_path):
    path = written(tmp_path, {"model": "vgg5", "seeds": 3, "epochs": 2})
    expected = dataclasses.replace(PRESETS["demo"], model="vgg5", seeds=3, epochs=2.0)
    assert files.read(path) == expected
    assert files.read(written(tmp_path, {})) == PRESETS["demo"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_whole_configuration_is_read_as_it_was(tmp_path, preset):
    fields = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)}
    fields |= {"numbers": {"uniform.rate": 0.1}, "devices": "all", "stack": "auto"}
    fields |= {"seeds": [3, 7], "model": "a.py:make"}
    if preset.data.startswith("cifar"):
        fields["archive"] = "a.tar.gz"
    assert files.read(written(tmp_path, plain(fields))) == Config(**fields)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is not JSON: Expecting"),
        (b"\xff\xfe{}", "is not JSON"),
        ("[" * 100_000, "is not JSON: maximum recursion"),
        ('{"seeds": 1, "seeds": 2}', "is not JSON: 'seeds' is given twice"),
        ('{"numbers": {"a": 1, "b": 2, "a": 1}}', "'a' is given twice"),
        ([1], r"must hold an object of fields.*got \[1\]"),
        ({"modle": "vgg5"}, "unknown 'modle'; did you mean 'model'"),
        ({"seeds": 1e9}, "seeds must be a whole number or a list; got 1000000000.0"),
        ({"rate": 10**400}, "rate must be a finite number"),
        ({"archive": 1}, "archive must be a path; got 1"),
        ({"policies": "uniform"}, "policies must be a list; got uniform"),
        ({"numbers": []}, "numbers must be an object"),
        ({"validation": 5}, "validation must be between 10 and 1990"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, value, said):
    path = written(tmp_path, value)
    with pytest.raises(ValueError, match=said) as refused:
        files.read(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)
