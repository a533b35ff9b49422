from experiments.analysis.compare import Run
from experiments.analysis.savings import Saving, savings


def run(policy, seed, phases=(), step=100, seconds=10.0):
    """A run with phases (step, seconds, frozen, predicted)."""
    keys = ("step", "seconds", "frozen", "predicted")
    events = tuple(dict(zip(keys, phase, strict=True)) for phase in phases)
    return Run(policy, seed, "finished", step, 0, seconds, 0.5, (), (), events)


PHASES = [(0, 0.0, [], 1.0), (40, 4.0, ["a", "b"], 0.5)]


def test_measured_is_the_time_of_a_step_by_that_of_the_control():
    runs = [run("freezeout", 0, PHASES, seconds=7.0)]
    first, second = savings(runs, [run("uniform", 0)])
    assert first == Saving(0, 40, 0, 1.0, 1.0)
    assert second == Saving(40, 100, 2, 0.5, 0.5)  # 3 s for 60 steps, beside 0.1 s
    assert second.cells == ("40 – 99", "2", "0.50", "0.50")


def test_runs_are_paired_by_seed_and_the_median_is_taken():
    later = [(0, 0.0, [], 1.0), (40, 8.0, ["a", "b"], 0.5)]
    runs = [run("freezeout", 0, PHASES, seconds=7.0)]
    runs += [run("freezeout", 1, later, seconds=11.0)]
    controls = [run("uniform", 0), run("uniform", 1, seconds=20.0)]
    assert [row.measured for row in savings(runs, controls)] == [1.0, 0.375]


def test_a_run_that_has_not_come_to_a_phase_is_left_out_of_it():
    short = run("freezeout", 1, PHASES[:1], step=20, seconds=4.0)
    runs = [run("freezeout", 0, PHASES, seconds=7.0), short]
    first, second = savings(runs, [run("uniform", 0), run("uniform", 1)])
    assert first.measured == 1.5  # of 1 and 2
    assert second.measured == 0.5


def test_without_a_control_nothing_is_measured():
    (_, second) = savings([run("freezeout", 0, PHASES)], [])
    assert second.measured is None
    assert second.cells[-1] == "–"


def test_a_policy_that_freezes_nothing_has_no_rows():
    assert savings([run("uniform", 0)], [run("uniform", 0)]) == []
