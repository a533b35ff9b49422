"""What the primitives of a jaxpr do with parameters, as far as layers go."""

from collections.abc import Mapping
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

# Primitives that call a jaxpr with their own operands, and where they keep it.
CALLS = {
    "jit": "jaxpr",
    "closed_call": "call_jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "composite": "jaxpr",
    "shard_map": "jaxpr",
}


# A call that cannot be looked into.
OPAQUE = "opaque"


# Operands stand side by side here: what they add to each other is parallel.
ADDITIVE = {
    *("add", "add_any", "sub", "max", "min", "select_n", "concatenate", "pad"),
    *("dynamic_update_slice", "scatter", "scatter-add"),
}


ELEMENTWISE = ADDITIVE | {
    *("mul", "div", "pow", "rem", "atan2", "clamp", "eq", "ne", "lt", "le", "gt", "ge"),
}


CONTRACTIONS = {"dot_general", "conv_general_dilated", "ragged_dot_general"}


# Equations through which slice i of axis 0 stays slice i.
KEEP_ROWS = {
    *("add", "sub", "mul", "div", "max", "min", "neg", "abs", "sign", "pow", "square"),
    *("integer_pow", "sqrt", "rsqrt", "cbrt", "exp", "exp2", "expm1", "log", "log1p"),
    *("sin", "cos", "tanh", "logistic", "erf", "floor", "ceil", "round", "clamp"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "select_n", "copy"),
    *("convert_element_type", "reduce_precision", "stop_gradient", "name"),
    *("sharding_constraint",),
}


REDUCTIONS = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}


def live_equations(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """The equations that an output or an effect depends on."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    live: list[JaxprEqn] = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            live.append(eqn)
            needed |= {v for v in eqn.invars if not isinstance(v, Literal)}
    return live[::-1]


def holds_jaxpr(params: Mapping[str, Any]) -> bool:
    values = [
        v
        for value in params.values()
        for v in (value if isinstance(value, tuple | list) else [value])
    ]
    return any(isinstance(v, Jaxpr | ClosedJaxpr) for v in values)


def shape_of(var: Any) -> tuple[int, ...]:
    return tuple(var.aval.shape)
