"""examples/aitp_jev, a provider outside aitp: its own tests, run with it installed beside aitp."""

from __future__ import annotations

from pathlib import Path

import pytest

from aitp.settings import PROJECT_ROOT
from tests.extensions.packages import declare, run

EXAMPLE = PROJECT_ROOT / "examples" / "aitp_jev"


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The package as an editable install leaves it."""
    declare(tmp_path, EXAMPLE)
    return EXAMPLE / "src", tmp_path


@pytest.mark.parametrize("tests", sorted(path.name for path in (EXAMPLE / "tests").glob("test_*.py")))
def test_the_packages_own_tests_pass(places: tuple[Path, Path], tests: str) -> None:
    program = f"""
import pytest, sys
sys.exit(pytest.main(["-q", "-x", "-c", "/dev/null", "--rootdir", "{EXAMPLE}", "{EXAMPLE / "tests" / tests}"]))
"""
    ended = run(program, *places, timeout=280)

    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-3000:]
