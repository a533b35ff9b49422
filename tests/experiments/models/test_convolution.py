import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import optax_llr
from experiments.models import convolution as module
from experiments.models import make
from experiments.models.convolution import compiler_options, convolution

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="another device runs what lax makes of it"
)


def pulled(form, stride, images, kernel, weights):
    """The output, and its gradients by images and kernel under a cotangent."""

    def call(images, kernel):
        return form(images, kernel, (stride, stride), "SAME", **module.PLAIN)

    out, pull = jax.vjp(call, images, kernel)
    return out, *pull(weights[: out.size].reshape(out.shape))


def normal(*shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), dtype)


def layer(form, **options):
    sizes = {"kernel_size": (3, 3), **options}
    return nnx.Conv(4, 6, **sizes, conv_general_dilated=form, rngs=nnx.Rngs(0))


def text(function, *arguments):
    """What XLA makes of it."""
    jitted = jax.jit(function, compiler_options=compiler_options())
    return jitted.lower(*arguments).compile().as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("side", "kernel", "stride"),
    [
        ((8, 8), (3, 3), 1),
        ((8, 8), (3, 3), 2),
        ((8, 8), (1, 1), 1),
        ((8, 8), (1, 1), 2),
        ((2, 2), (3, 3), 1),  # the kernel covers the image
        ((1, 2), (3, 3), 1),
        ((3, 2), (5, 4), 1),
        ((1, 1), (1, 1), 1),
        ((2, 4), (3, 3), 1),  # in one direction only
        ((3, 3), (4, 4), 1),  # larger than the image, but not everywhere over it
        ((2, 2), (3, 3), 2),
    ],
)
def test_values_and_both_gradients_are_those_of_lax(side, kernel, stride, dtype):
    arrays = [normal(3, *side, 4, dtype=dtype), normal(*kernel, 4, 6, dtype=dtype)]
    arrays.append(normal(3 * 64 * 6, dtype=dtype))

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def both(arrays):
        forms = convolution, lax.conv_general_dilated
        return [pulled(form, stride, *arrays) for form in forms]

    tolerance = 1e-5 if dtype == jnp.float32 else 2e-2
    for ours, theirs in zip(*both(arrays), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        np.testing.assert_allclose(ours, theirs, atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(
    "options",
    [
        {"padding": "VALID", "kernel_size": (2, 2)},
        {"padding": ((2, 0), (1, 1))},
        {"feature_group_count": 2},
        {"kernel_dilation": 2},
        {"precision": "highest"},
    ],
)
def test_what_is_no_plain_convolution_is_left_to_lax(options):
    images = normal(3, 2, 2, 4)
    ours, theirs = (
        layer(form, **options)(images)
        for form in (convolution, lax.conv_general_dilated)
    )
    np.testing.assert_array_equal(ours, theirs)


def test_composes_with_jit_vmap_and_grad():
    kernels, images = normal(2, 3, 3, 4, 4), normal(5, 2, 2, 4)

    def gradient(kernel):
        call = functools.partial(convolution, **module.PLAIN)
        return jax.grad(lambda k: (call(images, k, (1, 1), "SAME") ** 2).sum())(kernel)

    together = jax.jit(jax.vmap(gradient))(kernels)
    for one, kernel in zip(together, kernels, strict=True):
        np.testing.assert_allclose(one, gradient(kernel), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["resnet20", "vgg11"])
def test_layers_of_a_model_are_the_same(name, monkeypatch):
    conv, found = nnx.Conv, []
    for form in (convolution, lax.conv_general_dilated):
        monkeypatch.setattr(
            nnx,
            "Conv",
            lambda *sizes, form=form, **options: conv(
                *sizes, **{**options, "conv_general_dilated": form}
            ),
        )
        model = nnx.eval_shape(lambda: make(name, 10, nnx.Rngs(0)))
        model.eval()
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        found.append(
            optax_llr.trace_layers(
                lambda params, rest, x, graph=graph: nnx.merge(graph, params, rest)(x),
                params,
                rest,
                jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32),
            )
        )
    ours, theirs = found
    assert ours.names == theirs.names
    np.testing.assert_array_equal(ours.level, theirs.level)


@on_cpu
def test_barrier_keeps_the_input_of_a_convolution_whole():
    call = functools.partial(convolution, **module.PLAIN)
    gradient = jax.grad(lambda k, x: call(jax.nn.relu(x), k, (1, 1), "SAME").sum())
    assert "opt-barrier" in text(gradient, normal(3, 3, 4, 4), normal(2, 8, 8, 4))


@on_cpu
def test_no_convolution_goes_to_the_library_that_uses_one_core():
    call = functools.partial(
        convolution, window_strides=(1, 1), padding="SAME", **module.PLAIN
    )
    made = text(call, normal(8, 16, 16, 32), normal(3, 3, 32, 32))
    assert " convolution(" in made
    assert "ynn" not in made


@on_cpu
def test_kernel_that_covers_the_image_needs_no_convolution():
    conv = layer(convolution)
    assert " convolution(" in text(conv, normal(8, 3, 3, 4))
    assert " convolution(" not in text(conv, normal(8, 2, 2, 4))


def test_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    known = compiler_options()
    assert known.items() <= module.OPTIONS.items()
    assert "xla_disable_hlo_passes" in known
    monkeypatch.setitem(module.OPTIONS, "xla_no_such_option", "1")
    assert compiler_options() == known


def test_other_devices_get_the_convolution_of_lax_and_no_options(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    call = functools.partial(convolution, **module.PLAIN)
    program = jax.make_jaxpr(lambda x, k: call(x, k, (1, 1), "SAME"))(
        normal(1, 2, 2, 4), normal(3, 3, 4, 4)
    )
    assert [e.primitive.name for e in program.eqns] == ["conv_general_dilated"]
    assert compiler_options() == {}
