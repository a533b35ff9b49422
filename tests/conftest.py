"""Eight simulated devices, asked for before JAX starts; double precision on request.

Tests compile much and compute little: LLVM is told to optimize nothing, and XLA to
write kernels with its older emitters, in half the time. As these contract products and
sums in one program and not in the next, there are no instructions for that (AVX). What
`XLA_FLAGS` in the environment says has the last word: .ci/run gives the flags under
which tests run the code that users run.
"""

import os

import jax
import pytest

_FLAGS = (
    "--xla_force_host_platform_device_count=8 "
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=AVX"
)
os.environ["XLA_FLAGS"] = f"{_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Of `-n`, neighbours to one process: the tests of a file share what they compile.

    A process that has nothing left takes some of another's.
    """
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture
def double_precision():
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
