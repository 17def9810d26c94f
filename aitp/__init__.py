"""aitp, the AI Task Processor: takes tasks from a task API, runs them through a provider, brings the results back."""

from functools import cache

__version__ = "2.1.0"
SERVICE_NAME = "ai-task-processor"


@cache  # of what runs, whatever becomes of the checkout
def revision() -> str:
    """The commit that this was built from, as an installation has noted it or the checkout says; "" if nobody knows."""
    from pathlib import Path

    here = Path(__file__).parent
    try:
        return (here / "REVISION").read_text().strip()
    except OSError:
        if not (here.parent / ".git").exists():
            return ""
    import subprocess  # not above: an installation has the note

    try:
        told = subprocess.run(
            ("git", "-C", str(here.parent), "rev-parse", "--short=12", "HEAD"),
            capture_output=True,
            text=True,
            timeout=5,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()


def release() -> str:
    """Version and revision, for people: `2.1.0 (0123456789ab)`."""
    commit = revision()
    return f"{__version__} ({commit})" if commit else __version__
