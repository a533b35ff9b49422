import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.records.checkpoint import KEPT, Checkpoints, sha256

ABOUT = {"lines": 3, "seconds": 0.1}


class State(NamedTuple):
    params: nnx.State
    key: jax.Array
    step: jax.Array
    nothing: None = None


def state(value=1.0):
    params = nnx.State({"conv/a": {"kernel": nnx.Param(jnp.full((3, 2), value))}})
    return State(params, jax.random.key(7), jnp.int32(5))


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "checkpoints")
    yield made
    made.close()


def newest(checkpoints, like=None):
    said = []
    return checkpoints.newest(like or jax.eval_shape(state), said.append), said


def value(found):
    (kernel,) = jax.tree.leaves(found[0].params)
    return float(kernel[0, 0])


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(step, state(step), ABOUT | {"lines": step})
    checkpoints.wait()


def files(folder, step):
    return [path for path in (folder / str(step)).rglob("*") if path.is_file()]


def test_a_state_comes_back_to_the_last_bit(checkpoints):
    odd = state(np.nextafter(np.float32(0.1), 1))
    checkpoints.save(5, odd, ABOUT)
    checkpoints.wait()
    (back, about), said = newest(checkpoints)
    assert about == ABOUT
    assert said == []
    assert jax.tree.structure(back) == jax.tree.structure(odd)
    for old, new in zip(jax.tree.leaves(odd), jax.tree.leaves(back), strict=True):
        assert old.dtype == new.dtype
        assert bool((old == new).all())
    assert jax.random.bits(back.key) == jax.random.bits(odd.key)


def test_what_is_saved_is_the_state_of_that_moment(checkpoints):
    step = jax.jit(lambda s: s._replace(step=s.step + 1), donate_argnums=0)
    now = state()
    checkpoints.save(5, now, ABOUT)
    for _ in range(50):
        now = step(now)
    checkpoints.wait()
    assert int(newest(checkpoints)[0][0].step) == 5


def test_the_last_few_are_kept_and_the_newest_is_used(checkpoints, tmp_path):
    assert newest(checkpoints) == (None, [])
    save(checkpoints, *range(1, 7))
    kept = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert kept == [4, 5, 6]
    assert len(kept) == KEPT
    assert value(newest(checkpoints)[0]) == 6


def test_one_that_is_not_used_is_named_and_kept_and_the_one_before_used(
    checkpoints, tmp_path
):
    save(checkpoints, 1)
    other = state()._replace(nothing=jnp.zeros(3))
    for _ in range(2):  # also where one was put aside before
        checkpoints.save(2, other, ABOUT)
        checkpoints.wait()
        found, (said,) = newest(checkpoints)
        assert value(found) == 1
        unused = tmp_path / "checkpoints" / "2.unused"
        assert f"checkpoint of step 2 is not used, and kept as {str(unused)!r}" in said
        assert "expected the arrays of this run; it differs in ['.nothing']" in said
        assert unused.exists()
        assert newest(checkpoints)[1] == []
    save(checkpoints, 2)  # and it can be made again
    assert value(newest(checkpoints)[0]) == 2


def test_damage_anywhere_is_noticed_or_harmless(checkpoints, tmp_path):
    folder = tmp_path / "checkpoints"
    save(checkpoints, 1, 2)
    shutil.copytree(folder, tmp_path / "good")
    rng = np.random.default_rng(0)
    for file in files(folder, 2):
        name = file.relative_to(folder)
        for damage in (flip, truncate, remove):
            damage(folder / name, rng)
            reopened = Checkpoints(folder)
            found, said = newest(reopened)
            reopened.close()
            assert value(found) in (1.0, 2.0)
            assert (value(found) == 2) == (said == []), (name, damage)
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "good", folder)


def test_a_number_that_was_changed_is_noticed_by_the_checksum(checkpoints, tmp_path):
    save(checkpoints, 1, 2)
    about = tmp_path / "checkpoints" / "2" / "about" / "metadata"
    about.write_text(about.read_text().replace("0.1", "0.2"))
    found, (said,) = newest(checkpoints)
    assert value(found) == 1
    assert "its content does not match its checksum" in said


def test_an_error_of_orbax_is_one_of_a_file_in_a_line(checkpoints, monkeypatch):
    def save(*_, **__):
        raise ValueError("one\ntwo")

    monkeypatch.setattr(checkpoints._manager, "save", save)
    with pytest.raises(OSError, match=r"no checkpoint was written \(one\): '.*check"):
        checkpoints.save(1, state(), ABOUT)


def test_what_an_interrupted_save_left_is_no_checkpoint(checkpoints, tmp_path):
    save(checkpoints, 1)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    reopened = Checkpoints(folder)
    assert value(newest(reopened)[0]) == 1
    reopened.close()


def test_the_checksum_depends_on_every_bit_path_and_dtype():
    tree = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    others = [
        tree | {"a": jnp.zeros(3).at[1].set(1e-45)},
        {"a": tree["a"], "c": tree["b"]},
        tree | {"a": jnp.zeros(3, jnp.int32)},
        tree | {"a": jnp.zeros((3, 1))},
    ]
    sums = {sha256(other) for other in [tree, *others]}
    assert len(sums) == 5
    assert sha256(jax.tree.map(jnp.copy, tree)) == sha256(tree)


def flip(file, rng):
    content = bytearray(file.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)


def truncate(file, rng):
    content = file.read_bytes()
    file.write_bytes(content[: rng.integers(max(1, len(content)))])


def remove(file, rng):
    del rng
    file.unlink()
