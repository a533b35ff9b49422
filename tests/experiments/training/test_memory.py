"""Memory that a step frees is kept for the next one."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

STEPS = """
import resource
import jax
import jax.numpy as jnp
from experiments.training import memory

step = jax.jit(lambda x: jnp.sin(x @ x.T) @ x)  # 64 MB in between
x = jnp.ones((4000, 16))

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(new_pages() for _ in range(5)))
memory.keep_freed()
print(min(new_pages() for _ in range(5)))  # each thread's first block is a new one
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="as glibc gives it back")
def test_steps_get_no_new_pages_for_what_the_step_before_has_freed():
    command = [sys.executable, "-c", STEPS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 100
