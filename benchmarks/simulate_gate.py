"""How often the gate promotes a challenger of a known gain, and on how many tasks.

    python benchmarks/simulate_gate.py [--trials 400]

Tasks differ in difficulty (beta distribution, mean 1/2, most of them easy or hard); the challenger's chance at each is higher
where the champion neither always nor never solves it, so that the mean gain is the one asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from agentloop.evaluation.looks import most, plan
from agentloop.evaluation.verdict import judge
from agentloop.records import Evaluation
from agentloop.settings import Gate

TASKS, SAMPLES, TRIALS = 200, 4, 400
GAINS = (-0.05, 0.0, 0.03, 0.05, 0.08, 0.12)


def evaluation(policy: str, solved: np.ndarray) -> Evaluation:
    return Evaluation(policy, tuple(map(str, range(len(solved)))), SAMPLES, 0, tuple(map(tuple, solved.tolist())))


def challenger(gain: float) -> Callable[[np.ndarray], np.ndarray]:
    """Chance of the champion -> chance of the challenger, higher by `gain` in the mean."""
    room = 1 / 8  # mean of p(1 - p) under beta(1/2, 1/2)
    return lambda chance: np.clip(chance + gain / room * chance * (1 - chance), 0, 1)


def settle(gate: Gate, gain: float, rng: np.random.Generator) -> tuple[bool, int]:
    """(promoted, tasks that were needed)"""
    looks = plan(most(TASKS, gate.max_tasks))
    chance = rng.beta(0.5, 0.5, (TASKS * looks[-1].scale, 1))
    before = rng.random((len(chance), SAMPLES)) < chance
    after = rng.random((len(chance), SAMPLES)) < challenger(gain)(chance)
    for look in looks:
        tasks = TASKS * look.scale
        verdict = judge(evaluation("a", before[:tasks]), evaluation("b", after[:tasks]), gate, look=look)
        if verdict.decision != "needs_more_data":
            break
    return verdict.decision == "promote", tasks


def main(trials: int) -> None:
    print("| true gain, points | one look at 200: promoted | looks at 200, 400, 800: promoted | tasks in the mean |")
    print("|---:|---:|---:|---:|")
    for gain in GAINS:
        cells = []
        for limit in (None, 4 * TASKS):
            rng = np.random.default_rng(1)
            gate = Gate(alpha=0.01, max_tasks=limit, resamples=500)
            results = [settle(gate, gain, rng) for _ in range(trials)]
            cells.append((np.mean([each for each, _ in results]), np.mean([tasks for _, tasks in results])))
        (once, _), (several, tasks) = cells
        print(f"| {100 * gain:+.0f} | {100 * once:.1f} % | {100 * several:.1f} % | {tasks:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=TRIALS, help="challengers for each gain")
    main(parser.parse_args().trials)
