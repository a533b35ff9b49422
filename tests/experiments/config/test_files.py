import dataclasses
import json

import pytest

from experiments.config import files
from experiments.config.config import PRESETS, Config
from experiments.records.records import plain


def written(tmp_path, value):
    path = tmp_path / "mine.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_fields_that_are_not_named_are_the_demo_s(tmp_path):
    path = written(tmp_path, {"model": "vgg5", "seeds": 3, "epochs": 2})
    expected = dataclasses.replace(PRESETS["demo"], model="vgg5", seeds=3, epochs=2.0)
    assert files.read(path) == expected
    assert files.read(written(tmp_path, {})) == PRESETS["demo"]


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_a_whole_configuration_is_read_as_it_was(tmp_path, preset):
    fields = {name: getattr(preset, name) for name in Config.__dataclass_fields__}
    fields |= {"numbers": {"uniform.rate": 0.1}, "archive": "a.tar.gz"}
    fields |= {"devices": "all", "stack": "auto"}
    config = files.read(written(tmp_path, plain(fields)))
    assert plain(fields) == plain({name: getattr(config, name) for name in fields})
    assert config == Config(**fields | {"archive": config.archive})
    assert config.archive.name == "a.tar.gz"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("{", "is not JSON: Expecting"),
        ("[" * 100_000, "is not JSON: maximum recursion"),
        ('{"seeds": 1, "seeds": 2}', "is not JSON: 'seeds' is given twice"),
        ('{"numbers": {"a": 1, "b": 2, "a": 1}}', "'a' is given twice"),
        ([1], r"must hold an object of fields.*got \[1\]"),
        ({"modle": "vgg5"}, "unknown field 'modle'; did you mean 'model'"),
        ({"zzz": 1}, r"unknown field 'zzz' \(known: name, model"),
        ({"seeds": "3"}, 'seeds must be a whole number; got "3"'),
        ({"seeds": 3.5}, "seeds must be a whole number; got 3.5"),
        ({"seeds": True}, "seeds must be a whole number; got true"),
        ({"rate": "fast"}, 'rate must be a number; got "fast"'),
        ({"rate": 10**400}, "rate must be a number; got 1000"),
        ({"flip": 1}, "flip must be true or false; got 1"),
        ({"model": None}, "model must be text; got null"),
        ({"archive": 1}, "archive must be text or null; got 1"),
        ({"policies": "uniform"}, 'policies must be a list, each item text; got "uni'),
        ({"marks": [0.5, "x"]}, "marks must be a list, each item a number; got"),
        (
            {"numbers": {"a": "b"}},
            "numbers must be an object, each value a number; got",
        ),
        ({"numbers": []}, "numbers must be an object"),
        ({"devices": "some"}, 'devices must be a whole number or "all"; got "some"'),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, value, said):
    path = written(tmp_path, value)
    with pytest.raises(ValueError, match=said) as refused:
        files.read(path)
    assert "\n" not in str(refused.value)
    assert str(path) in str(refused.value)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "mine.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match="is not JSON"):
        files.read(tmp_path / "mine.json")
