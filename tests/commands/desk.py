"""An operator's desk: a ledger with something in it, and the command line beside it."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from typing import Any

from aitp.ledger.outbox import DeliveryOutcome
from tests.ledger.world import World
from tests.packaging.test_command import aitp
from tests.settings.complete import COMPLETE

# What `python -m aitp` does; and at its end, on standard error, the names of all that it has imported, and "kept" if
# that was not taken apart piece by piece.
LOADED = """
import atexit, gc, runpy, sys

def tell():
    kept = gc.isenabled() and gc.get_freeze_count() > len(gc.get_objects())
    print(*sys.modules, *["kept"] * kept, file=sys.stderr)

atexit.register(tell)
runpy.run_module("aitp", run_name="__main__", alter_sys=True)
"""


@dataclass
class Desk:
    """`world` is the ledger; its clock begins at the present time. `settings` are the commands' environment."""

    world: World
    settings: dict[str, str]

    @classmethod
    def around(cls, world: World) -> Desk:
        world.clock.now = time.time()
        places = {"RATE_LIMIT_STORAGE_PATH": str(world.path), "RUNTIME_DIR": str(world.path.parent / "run")}
        return cls(world, {**COMPLETE, **places, "COLUMNS": "200"})

    def run(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return aitp(*arguments, **{**self.settings, **environ})

    def json(self, *arguments: str, **environ: str) -> Any:
        run = self.run(*arguments, "--json", **environ)
        assert run.stderr == ""
        return json.loads(run.stdout)

    def bury(self, *ids: str, refusal: str = "the task API answered 400") -> None:
        """Tasks whose results the API refused."""
        self.world.admit(*ids)
        self.world.run()
        for delivery in self.world.take(most=len(ids)):
            self.world.ledger.outbox.settle(delivery, DeliveryOutcome.REFUSED, refusal)
