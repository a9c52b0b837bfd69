"""Mutation testing of one package: break its functions one small way at a time, and see whether its own tests notice.

    python .ci/mutants.py analysis --sample 300 --seed 0

Prints the score with its interval and leaves every verdict in `mutants-PACKAGE.txt`; `mutmut show NAME` gives a diff.
What is mutated and what is not stands under `[tool.mutmut]` in pyproject.toml; docs/contributing.md holds the scores.
"""

import argparse
import random
import shutil
from collections import Counter
from pathlib import Path

import mutmut.__main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from scipy import stats

# without those that run whole pipelines of the bundled models or every family by brute force
QUICK = {
    "execution": [
        f"tests/execution/{name}.py"
        for name in (
            "caching/test_forecast",
            "caching/test_offload",
            "caching/test_strategies",
            "test_generations",
            "test_hooks",
            "test_rows",
            "test_special_runs",
            "test_steering",
            "test_strategy_runs",
        )
    ]
}
CAUGHT = ("killed", "timeout", "segfault")


def generate(package: str) -> list[str]:
    """Fresh mutants of `janoscope/<package>`, and its tests as the only ones that count -> all names, sorted."""
    shutil.rmtree("mutants", ignore_errors=True)
    Path("mutants").mkdir()
    config().only_mutate = [f"janoscope/{package}/*"]
    config().pytest_add_cli_args_test_selection = QUICK.get(package, [f"tests/{package}"])
    mutmut.copy_src_dir()
    mutmut.create_mutants(1)
    return sorted(verdicts())


def verdicts() -> dict[str, str]:
    """Of each mutant: killed, timeout, survived, no tests, not checked."""
    by_name = {}
    for path in walk_mutatable_files():
        data = SourceFileMutationData(path=path)
        data.load()
        by_name |= {name: status_by_exit_code[code] for name, code in data.exit_code_by_key.items()}
    return by_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", choices=("conversion", "analysis", "plan", "execution"))
    parser.add_argument("--sample", type=int, help="how many mutants to draw; all where not given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="the survivors of the last run alone")
    options = parser.parse_args()
    verdict_file = Path(f"mutants-{options.package}.txt")

    if options.again and not verdict_file.exists():
        parser.error(f"--again needs {verdict_file}, which a run without it leaves")

    names = generate(options.package)
    drawn = random.Random(options.seed).sample(names, min(options.sample or len(names), len(names)))
    if options.again:
        before = dict(line.split(" ", 1) for line in verdict_file.read_text().splitlines())
        drawn = [name for name, verdict in before.items() if verdict not in CAUGHT and name in names]
    if not drawn:
        parser.exit(message=f"no mutant of {options.package} survived the last run\n")  # none named means all to mutmut
    mutmut._run(drawn, 1)

    after = verdicts()
    outcome = {name: after[name] for name in drawn}
    verdict_file.write_text("".join(f"{name} {verdict}\n" for name, verdict in sorted(outcome.items())))
    caught = sum(verdict in CAUGHT for verdict in outcome.values())
    low, high = stats.binomtest(caught, len(outcome)).proportion_ci(method="wilson")
    print(f"{options.package}: {dict(Counter(outcome.values()))}")
    print(f"{caught} of {len(outcome)} caught, {len(names)} in all: {caught / len(outcome):.1%} [{low:.1%}, {high:.1%}]")


if __name__ == "__main__":
    main()
