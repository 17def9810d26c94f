"""Commands that keep the ledger file well: check it, back it up, recover what can be read of a damaged one."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from aitp.commands.cli_teaching import Group, json_option


@click.group(cls=Group, short_help="the ledger file: check it, back it up, recover it")
def ledger() -> None:
    """The ledger file (RATE_LIMIT_STORAGE_PATH): check it, back it up, recover what can be read of a damaged one."""


@ledger.command(
    "check",
    short_help="look it over, also while the service runs",
    examples={
        "aitp ledger check": "after a crash of the machine, or from cron",
        "aitp ledger check --quick": "does not compare indexes with tables: about half the time",
    },
    exits={0: "it is sound", 1: "it is damaged: every problem is named; or there is none"},
)
@click.option("--quick", is_flag=True, help="Do not compare indexes with tables.")
@json_option
def ledger_check(quick: bool, as_json: bool) -> None:
    """Check the file, and what its rows promise each other; also while the service runs."""
    from aitp.commands.keeping import check_ledger
    from aitp.settings import load_settings

    sys.exit(check_ledger(load_settings(), quick=quick, as_json=as_json))


@ledger.command(
    "backup",
    short_help="write a copy to FILE, also while the service runs",
    examples={
        "aitp ledger backup /var/backups/aitp.db": "one file, mode 0600",
        "aitp ledger backup --force /var/backups/aitp.db": "in place of the last one",
    },
    exits={0: "written, and found sound", 1: "the ledger is damaged, or FILE cannot be written"},
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@json_option
def ledger_backup(file: Path, force: bool, as_json: bool) -> None:
    """Write one consistent state of the ledger to FILE, and check what was written; also while the service runs.

    To restore it: stop the service, remove the ledger with its -wal and -shm, put FILE in its place. What was finished
    since may be bought again.
    """
    from aitp.commands.keeping import back_up_ledger
    from aitp.settings import load_settings

    back_up_ledger(load_settings(), file, overwrite=force, as_json=as_json)


@ledger.command(
    "recover",
    short_help="set a damaged one aside, save what can be read",
    examples={"aitp ledger recover": "when the service exits with 78 because its ledger is damaged"},
    exits={0: "recovered as far as can be, or it was sound", 1: "it is in use, there is none, or the disk is full"},
)
@json_option
def ledger_recover(as_json: bool) -> None:
    """Set a damaged ledger aside under a dated name, and save what can be read of it in a new one.

    The service must be stopped. A sound ledger stays as it is; nothing of a damaged one is changed or removed.
    """
    from aitp.commands.keeping import recover_ledger
    from aitp.settings import load_settings

    recover_ledger(load_settings(), as_json=as_json)
