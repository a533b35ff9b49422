"""trace_layers: the layers of a model in forward order, read off its own jaxpr.

One walk over the equations. Each variable holds either `Weights`, a function of
parameters alone, or an `Activation`, which depends on the input and knows how many
layers lie behind it. Where the two meet, a layer is found.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from ._blocks import block_names
from ._found import Found
from ._layers import Layers
from ._paths import PyTree, is_array, leaves_by_path
from ._values import INPUT, Value, Weights
from ._walk import Walk


def trace_layers(
    fn: Callable[..., Any],
    params: PyTree,
    *args: Any,
    group: Callable[[str], str] | Literal["block"] | None = None,
    unused: Mapping[str, str] | None = None,
    **kwargs: Any,
) -> Layers:
    """Finds the layers of a model, in forward order, from its own computation.

    `fn` is traced, not run. Parameters of one module (`conv1/kernel`, `conv1/bias`)
    form a layer; a module that has only vectors and applies them elementwise (a norm)
    joins the layer that feeds it. Names and their order play no part.

    The level of a layer is the number of layers on the longest path from the input to
    it, its distance the number on the longest path from it to an output. What runs side
    by side (a projection shortcut; queries, keys and values; token and position
    embeddings; a learned query beside the keys that it meets) shares a level. A layer
    with parts at several depths stands where its deepest part stands; tied weights
    count at their first use. A layer of nothing but scalars (a temperature behind two
    towers) is no step of a path. Trace the *whole* model also where only a part of it
    is trained: what is left out shifts the levels of the rest.

    Parameters that `jax.lax.scan` slices along axis 0 become one layer a slice,
    `name[0]`, `name[1]`, …; in a scan over time, whose inputs are activations, they
    stay one. A stacked parameter that is not scanned is one layer. A module that holds
    modules as well as parameters of its own gives these a layer, under the path of the
    first that is no vector.

    With `group="block"` each block that repeats is a layer: the outermost unit that
    stands there several times with the same parameters, give or take a shortcut, one
    behind the other, under paths that differ in a number, or as slices of a scan; in a
    ResNet the residual blocks, not the stages. What comes before is the stem, what
    comes behind the head, of each stack; what takes one stage to the next is a layer of
    its own. A norm outside joins what feeds it, or the module that it stands in.

    Args:
        fn: a forward pass or a loss, called as `fn(params, *args, **kwargs)`.
        params: the parameters, as the optimizer will be given them. Arrays or
            `jax.ShapeDtypeStruct`.
        *args: inputs. Whatever has a shape and a dtype counts as input, also random
            keys and batch statistics; everything else (flags, sizes) is static.
            State that only serves to rescale weights is closed over instead.
        group: `"block"`, or a function from a parameter's path to the name of its
            layer. It decides alone: norms join no other layer; only the slices of a
            scanned parameter stay apart. One layer a module, norms too, is
            `group=lambda path: path.rpartition("/")[0]`.
        unused: where parameters belong that this pass does not use and that the model
            keeps (a mask token, a pooler): from a path, or a pattern for all of it
            (`re.fullmatch`), to the name of the layer that they join.
        **kwargs: more inputs, by name.

    Returns:
        The `Layers`, ordered by level and then by first use.

    Raises:
        ValueError: naming the parameters, if some are never used, or are scanned along
            another axis than 0; if there is no input, a named axis stands outside of
            `fn`, `group` gives no name or finds no block, or `unused` names no unused
            parameter or no layer. `match_layers` serves models that cannot be traced.

    Example:
        >>> import jax, jax.numpy as jnp, optax_llr
        >>> params = {"b": {"w": jnp.ones((4, 8))}, "a": {"w": jnp.ones((8, 2))}}
        >>> def forward(params, x):
        ...     return jax.nn.relu(x @ params["b"]["w"]) @ params["a"]["w"]
        >>> optax_llr.trace_layers(forward, params, jnp.ones((1, 4))).names
        ('b', 'a')
    """
    leaves, treedef = jax.tree.flatten(params)
    inputs, input_treedef = jax.tree.flatten((args, kwargs))
    paths = list(leaves_by_path(params))
    of_params = [i for i, leaf in enumerate(leaves) if is_array(leaf)]
    of_inputs = [i for i, leaf in enumerate(inputs) if is_array(leaf)]

    def flat(param_arrays: Sequence[Any], input_arrays: Sequence[Any]) -> list[Any]:
        merged = _replaced(leaves, of_params, param_arrays)
        call_args, call_kwargs = input_treedef.unflatten(
            _replaced(inputs, of_inputs, input_arrays)
        )
        outputs = fn(treedef.unflatten(merged), *call_args, **call_kwargs)
        return [leaf for leaf in jax.tree.leaves(outputs) if is_array(leaf)]

    shapes = {paths[i]: tuple(leaves[i].shape) for i in of_params}
    if not shapes or not of_inputs:
        raise ValueError(
            "trace_layers: expected parameters and at least one input array, as "
            f"trace_layers(forward, params, x); got {len(shapes)} parameters and "
            f"{len(of_inputs)} input arrays. What `forward` closes over is no input"
        )
    arrays = [leaves[i] for i in of_params], [inputs[i] for i in of_inputs]
    try:
        closed = jax.make_jaxpr(flat)(*arrays)
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            f"trace_layers: the model uses a named axis from outside ({error}), as "
            "BatchNorm over devices does. Put it around the model: trace_layers(lambda "
            "params, x: jax.vmap(forward, (None, 0), axis_name=…)(params, x[None]), "
            "params, x)"
        ) from error
    if group == "block":
        group = block_names(_walked(closed, shapes, None))
    if not (group is None or callable(group)):
        raise ValueError(
            f"trace_layers: group: expected 'block' or a function, got {group!r}"
        )
    return _walked(closed, shapes, group).to_layers(unused or {})


def _walked(
    closed: ClosedJaxpr,
    shapes: Mapping[str, tuple[int, ...]],
    group: Callable[[str], str] | None,
) -> Found:
    found = Found(shapes, group)
    values: list[Value] = [_parameter(path, shape) for path, shape in shapes.items()]
    values += [INPUT] * (len(closed.jaxpr.invars) - len(values))
    found.finish(Walk(found).closed(closed, values))
    return found


def _parameter(path: str, shape: tuple[int, ...]) -> Weights:
    part = frozenset([(path, None)])
    return Weights(part, rows=np.arange(shape[0]) if shape else None, full=part)


def _replaced(
    leaves: Sequence[Any], at: Sequence[int], values: Sequence[Any]
) -> list[Any]:
    new = dict(zip(at, values, strict=True))
    return [new.get(i, leaf) for i, leaf in enumerate(leaves)]
