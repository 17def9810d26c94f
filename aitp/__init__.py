"""aitp, the AI Task Processor: takes tasks from a task API, runs them through a provider, brings the results back."""

from contextlib import suppress
from functools import cache

__version__ = "2.1.0"
SERVICE_NAME = "ai-task-processor"


@cache  # of what runs, whatever becomes of the checkout
def revision() -> str:
    """The commit that this was built from, as an installation has noted it or the checkout says; "" if nobody knows."""
    from pathlib import Path

    here = Path(__file__).parent
    with suppress(OSError):
        return (here / "REVISION").read_text().strip()
    if (here.parent / ".git").exists():
        import subprocess  # not above: an installation has the note

        ask = ("git", "-C", str(here.parent), "rev-parse", "--short=12", "HEAD")
        with suppress(OSError, subprocess.SubprocessError):
            return subprocess.run(ask, capture_output=True, text=True, timeout=5).stdout.strip()
    return ""


def release() -> str:
    """Version and revision, for people: `2.1.0 (0123456789ab)`."""
    commit = revision()
    return f"{__version__} ({commit})" if commit else __version__
