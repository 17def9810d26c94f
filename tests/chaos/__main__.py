"""`python -m tests.chaos --runs N --seed S`: so many schedules, one line each, and what they came to.

`bin/test --chaos` is this. Two at a time: most of a run is waiting. Exit code 1 if any promise was broken; for each
such run it prints what was broken and the command that repeats it, and keeps its files.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.chaos.fleet import draw_fleet, run_fleet
from tests.chaos.run import Result, end_with_parent, run_seed
from tests.chaos.schedule import draw


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bin/test --chaos", description="Random schedules of faults, by seed.")
    parser.add_argument("--runs", type=int, default=10, help="schedules to run")
    parser.add_argument("--seed", type=int, default=1, help="the first schedule's seed; each next one is one more")
    parser.add_argument("--at-once", type=int, default=2, help="runs at one time")
    parser.add_argument("--fleet", action="store_true", help="of several hosts on one PostgreSQL")
    parser.add_argument("--show", action="store_true", help="print the schedules and run nothing")
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.runs)
    run, show = (run_fleet, draw_fleet) if options.fleet else (run_seed, draw)
    if options.show:
        for seed in seeds:
            print(show(seed))
        return 0
    began = time.monotonic()
    results = []
    for result in _results(run, seeds, options.at_once):
        results.append(result)
        _tell(result, len(results), len(seeds))
        if result.violations:
            print(show(result.seed))
            for violation in result.violations:
                print(f"  BROKEN {violation}")
            again = f"bin/test --chaos {'--fleet ' if options.fleet else ''}--runs 1 --seed {result.seed}"
            print(f"  its files: {result.folder}\n  again: {again}", flush=True)
    _conclude(results, time.monotonic() - began)
    return 1 if any(result.violations for result in results) else 0


def _results(run: Callable[[int], Result], seeds: range, at_once: int) -> Iterator[Result]:
    if at_once == 1 or len(seeds) == 1:
        yield from map(run, seeds)
        return
    # A process a run: what a run leaves in this process is not to be the next one's.
    with ProcessPoolExecutor(at_once, max_tasks_per_child=1, initializer=end_with_parent) as pool:
        for future in as_completed([pool.submit(run, seed) for seed in seeds]):
            yield future.result()


def _tell(result: Result, number: int, total: int) -> None:
    figures = result.figures
    print(
        f"{number}/{total}  seed {result.seed}  {'BROKEN' if result.violations else 'kept'}  {result.seconds:.0f} s"
        f"  {figures['tasks']} tasks, {figures['deaths']} deaths, {figures['requests struck']} requests struck",
        flush=True,
    )


def _conclude(results: list[Result], seconds: float) -> None:
    figures: Counter[str] = Counter()
    for result in results:
        figures += result.figures
    broken = [result.seed for result in results if result.violations]
    print(
        f"\n{len(results)} schedules in {seconds / 60:.1f} minutes, {len(broken)} with a broken promise {broken or ''}"
    )
    for name, count in sorted(figures.items()):
        print(f"  {name:24} {count}")


if __name__ == "__main__":
    sys.exit(main())
