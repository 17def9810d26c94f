"""What may befall a run, one function an act. Each returns what takes it back, if anything does."""

from __future__ import annotations

import os
import random
import resource
import signal
from collections.abc import Callable, Mapping
from typing import Any

from aitp.demo.faults import Fault, FaultKind
from aitp.process.scoreboard import Role
from tests.chaos.stage import Stage
from tests.chaos.work import OLLAMA_CHATTER, OLLAMA_EMBEDDER

Undo = Callable[[], Any]
ADDRESS_SPACE_LEFT = 1 << 20
OLLAMA_MODELS = (f"{OLLAMA_EMBEDDER}:latest", OLLAMA_CHATTER)
SERVERS = ("task_api", "openai_api", "ollama_api", "wikidata_api", "authorization")


class Acts:
    """The acts of one run. `ids`: tasks that may be taken away; `removed` and `counts` say what was done."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self.ids: list[str] = []
        self.removed: list[str] = []

    def perform(self, name: str, options: Mapping[str, Any]) -> Undo | None:
        """Do it."""
        act: Callable[..., Undo | None] = getattr(self, f"_{name}")
        return act(**{key: value for key, value in options.items() if key != "for_seconds"})

    # Processes

    def _kill_worker(self) -> None:
        self._kill_child(Role.WORKER)

    def _kill_relay(self) -> None:
        self._kill_child(Role.RELAY)

    def _kill_child(self, role: Role) -> None:
        if (child := self._stage.one_of(role, self._chance)) is not None:
            self._stage.kill([child.pid])

    def _kill_master(self) -> None:
        if (pid := self._stage.master_pid()) is not None:
            self._stage.kill([pid])

    def _kill_metrics(self) -> None:
        self._stage.kill(self._stage.programs("metrics"))

    def _kill_supervisord(self) -> None:
        assert self._stage.process is not None
        self._stage.kill([self._stage.process.pid])
        self._stage.process.wait()
        self._stage.restart()

    def _kill_everything(self) -> None:
        self._stage.kill_everything()
        self._stage.restart()

    def _power_cut(self) -> None:
        self._stage.cut_power(self._chance)
        self._stage.restart()

    def _pause_worker(self) -> Undo | None:
        return self._pause(Role.WORKER)

    def _pause_relay(self) -> Undo | None:
        return self._pause(Role.RELAY)

    def _pause(self, role: Role) -> Undo | None:
        child = self._stage.one_of(role, self._chance)
        return None if child is None else self._stop(child.pid)

    def _pause_master(self) -> Undo | None:
        pid = self._stage.master_pid()
        return None if pid is None else self._stop(pid)

    def _stop_worker_for_good(self) -> None:
        """Until its master kills it for its overrun deadline. In a call: one that holds a lock would hold up others."""
        child = self._stage.one_of(Role.WORKER, self._chance)
        if child is not None and child.task_id:
            tell(child.pid, signal.SIGSTOP)

    @staticmethod
    def _stop(pid: int) -> Undo | None:
        return (lambda: tell(pid, signal.SIGCONT)) if tell(pid, signal.SIGSTOP) else None

    def _reload(self) -> None:
        self._stage.configure(EMBEDDING_BATCH_SIZE=self._chance.choice((2, 5, 16)))
        if (pid := self._stage.master_pid()) is not None:
            tell(pid, signal.SIGHUP)

    def _point(self, point: str, action: str) -> None:
        self._stage.controls.arm(point, action)

    # The machine

    def _full_disk(self) -> Undo | None:
        return (lambda: self._stage.fill_disk(False)) if self._stage.fill_disk(True) else None

    def _no_descriptors(self) -> Undo:
        return self._restrict(resource.RLIMIT_NOFILE, self._stage.open_files)

    def _no_memory(self) -> Undo:
        return self._restrict(resource.RLIMIT_AS, lambda pid: self._stage.address_space(pid) + ADDRESS_SPACE_LEFT)

    def _restrict(self, limit: int, value: Callable[[int], int]) -> Undo:
        pids = [child.pid for child in self._stage.crew()]
        for pid in pids:
            if most := value(pid):
                self._stage.restrict([pid], limit, most)
        return lambda: self._stage.restrict(pids, limit, None)

    def _step_clock(self, seconds: float) -> None:
        self._stage.controls.step_clock(seconds)

    def _no_names(self) -> Undo:
        self._stage.controls.hide_names(True)
        return lambda: self._stage.controls.hide_names(False)

    # The other side

    def _fault(self, server: str, **fault: Any) -> None:
        self._stage.world.add_fault(server, Fault(**fault))

    def _provider_down(self, server: str = "openai_api") -> None:
        self._stage.world.down(server, self._chance.uniform(0.5, 2.0))

    def _api_down(self) -> None:
        self._stage.world.down("task_api", self._chance.uniform(0.5, 2.0))

    def _provider_burst(self, server: str = "openai_api") -> None:
        self._stage.world.add_fault(server, Fault(status=503, for_seconds=self._chance.uniform(0.5, 2.0)))

    def _api_burst(self) -> None:
        self._stage.world.add_fault("task_api", Fault(status=503, for_seconds=self._chance.uniform(0.5, 2.0)))

    def _runner_deaths(self, times: int) -> None:
        """Ollama's model process dies under so many calls."""
        self._stage.world.set("ollama_api", runner_deaths=times)

    def _remove_model(self, model: str) -> None:
        """Somebody removes a model, which the service gets back."""
        self._stage.world.set("ollama_api", present=[each for each in OLLAMA_MODELS if each != model])

    def _redirects(self) -> None:
        for server in SERVERS:
            for status in (302, 307):
                fault = Fault(status=status, headers={"Location": f"{self._stage.elsewhere.url}/taken"}, times=2)
                self._stage.world.add_fault(server, fault)

    def _gateway(self, status: int, seconds: float) -> None:
        """Something in front of the task API answers deliveries with a page of its own."""
        headers = {"Location": f"{self._stage.elsewhere.url}/login"} if status == 302 else {}
        page = Fault(method="PATCH", kind=FaultKind.PAGE, status=status, headers=headers, for_seconds=seconds)
        self._stage.world.add_fault("task_api", page)

    def _refusal(self, status: int) -> None:
        self._stage.world.add_fault("task_api", Fault(method="PATCH", status=status, times=1))

    def _remove_task(self) -> None:
        """One that the service may be at work on."""
        delivered = {delivery.task_id for delivery in self._stage.world.deliveries() if delivery.status == 200}
        left = [task_id for task_id in self.ids if task_id not in delivered and task_id not in self.removed]
        if left:
            victim = self._chance.choice(left[:20])
            self.removed.append(victim)
            self._stage.world.remove_task(victim)

    def _revoke_tokens(self) -> None:
        self._stage.world.revoke_tokens()


def tell(pid: int, number: signal.Signals) -> bool:
    """Signal a process; False if there is none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
