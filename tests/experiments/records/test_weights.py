import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from experiments.records import weights

TREE = {"blocks": [{"kernel": np.ones((2, 3))}], "norm": {"mean": np.arange(3.0)}}
ARRAYS = {"blocks/0/kernel": np.ones((2, 3)), "norm/mean": np.arange(3.0)}


@pytest.fixture
def archive(tmp_path):
    np.savez(tmp_path / "mine.npz", **ARRAYS)
    return tmp_path / "mine.npz"


@pytest.fixture
def run(tmp_path):
    """The folder of a run that kept its weights, in that of a study."""
    folder = tmp_path / "study" / "uniform-0"
    folder.mkdir(parents=True)
    (folder.parent / "config.json").touch()
    (folder / "metrics.jsonl").touch()
    weights.keep(folder, TREE["blocks"], TREE["norm"])
    return folder


def orbax(folder, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)
    return folder


def test_arrays_of_orbax_and_of_numpy_have_the_same_paths_and_hash(archive, tmp_path):
    written = orbax(tmp_path / "orbax", TREE)
    for source in (archive, written):
        found = weights.read(source)
        assert found.keys() == ARRAYS.keys()
        assert all((found[path] == ARRAYS[path]).all() for path in ARRAYS)
    assert weights.hashes(archive) == weights.hashes(written)


def test_a_state_of_flax_has_the_paths_of_its_variables(tmp_path):
    state = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    found = weights.read(orbax(tmp_path / "orbax", state))
    assert found.keys() == weights.by_path(state).keys() == {"kernel", "bias"}


def test_a_run_keeps_numbers_but_no_counts(tmp_path):
    tree = {"a": jnp.ones(2), "count": jnp.int32(3)}
    weights.keep(tmp_path, tree, {"mean": jnp.zeros(1)})
    with np.load(tmp_path / weights.KEPT) as kept:
        assert set(kept) == {"a", "mean"}


def test_the_hash_changes_with_any_value_path_or_shape(archive):
    before = weights.hashes(archive)["init_from"]
    for changed in (
        {**ARRAYS, "norm/mean": np.array([0.0, 1.0, 2.5])},
        {**ARRAYS, "norm/mean": np.arange(3.0)[None]},
        {"blocks/0/kernel": ARRAYS["blocks/0/kernel"], "norm/var": np.arange(3.0)},
    ):
        np.savez(archive, **changed)
        assert weights.hashes(archive)["init_from"] != before
    assert weights.hashes(None) == weights.read(None) == {}


def test_what_cannot_be_started_from_is_refused_with_what_is_there(run, tmp_path):
    (run / weights.KEPT).rename(run / "a.npz")
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "half.npz").write_bytes((run / "a.npz").read_bytes()[:200])
    (tmp_path / "text.npz").write_text("no archive")
    for source, said in {
        run: "has no weights.npz: that run has not finished, or.*--keep-weights",
        run.parent: "expected the folder of a run.*it is none of them",
        tmp_path / "nowhere": "expected .*it does not exist",
        tmp_path / "empty.npz": "there is no array in it",
        tmp_path / "half.npz": "cannot be read",
        tmp_path / "text.npz": "cannot be read",
    }.items():
        with pytest.raises(ValueError, match=f"init_from: .*{source.name}.*{said}"):
            weights.read(source)


def test_the_folder_of_a_study_names_its_runs(run):
    with pytest.raises(ValueError, match=r"study.*it has uniform-0"):
        weights.read(run.parent)
