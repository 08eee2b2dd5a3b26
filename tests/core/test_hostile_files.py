"""Files as an enemy would make them give a result or one sentence, in every command and loader: some of what tests/fuzz runs by the
thousand."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import KINDS, Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz") / "bench")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tiny"])
@given(rng=st.randoms(use_true_random=False))
@settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)
def test_a_mutated_file_gives_a_result_or_one_sentence(bench, kind, rng):
    bench.reset()
    bench.attack(kind, rng)
