"""The image does its work as docker-compose.yml runs it: read-only, without rights, as its own user, as process 1."""

from __future__ import annotations

import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from aitp.demo.world_process import WorldProcess
from aitp.settings import PLACEHOLDER_KEY
from tests.packaging.image import Image
from tests.ports import free_port
from tests.waiting import wait_until


def can_make_images() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_make_images(), reason="needs root, and mount namespaces")
@pytest.mark.parametrize(
    "install",
    [
        pytest.param(False, id="with the tests' packages"),
        pytest.param(True, id="as built", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_the_image_works_confined_and_stops_in_order(install: bool, tmp_path: Path) -> None:
    place = tmp_path / "stages"
    place.mkdir()
    with WorldProcess({"tasks": 20}) as world, Image(place, install=install) as image:
        settings = {
            **world.environment,
            "PROCESSING_MODE": "openai",
            "OPENAI_API_KEY": PLACEHOLDER_KEY,
            "METRICS_PORT": str(free_port()),
            "RATE_LIMIT_ENABLED": "false",
        }
        service = image.start(settings)

        try:
            wait_until(lambda: world.states() == {"succeeded": 20}, timeout=60, every=0.1)
        except AssertionError:
            raise AssertionError(image.log) from None

        check = image.run(image.health_check, settings)
        assert (check.returncode, check.stderr) == (0, "")
        with urllib.request.urlopen(f"http://127.0.0.1:{settings['METRICS_PORT']}/ready", timeout=10) as ready:
            assert ready.status == 200
        assert image.run(["touch", "/app/mine"], settings).returncode == 1
        assert image.stop(service) == 0, image.log
        assert '"level":"error"' not in image.log
        assert image.run(image.health_check, settings).returncode == 1
        if install:
            assert image.megabytes("/app") < 200
