"""The image does its work as docker-compose.yml runs it: read-only, without rights, as its own user, as process 1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from aitp.demo.world_process import WorldProcess
from aitp.settings import PLACEHOLDER_KEY, PROJECT_ROOT
from tests.packaging.chroot import copy_source
from tests.packaging.image import Image
from tests.ports import free_port
from tests.waiting import wait_until

SETTINGS = {
    "API_BASE_URL": "http://127.0.0.1:1",
    "OAUTH2_TOKEN_URL": "http://127.0.0.1:1/token",
    "OAUTH2_CLIENT_ID": "aitp",
    "OAUTH2_CLIENT_SECRET": "secret",
    "OPENAI_API_KEY": PLACEHOLDER_KEY,
}


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


@pytest.mark.skipif(not can_make_images(), reason="needs root, and mount namespaces")
def test_an_image_has_the_extensions_that_lie_beside_its_dockerfile(tmp_path: Path) -> None:
    context, place = tmp_path / "context", tmp_path / "stages"
    copy_source(PROJECT_ROOT, context)
    shutil.copytree(PROJECT_ROOT / "examples/aitp_sentiment", context / "extensions/aitp_sentiment")
    (context / "extensions/extensions.txt").write_text("./aitp_sentiment\n")
    place.mkdir()

    with Image(place, install=False, context=context) as image:
        told = image.run(["aitp", "check", "--offline", "--json"], SETTINGS).stdout

    listed = {entry["name"]: entry["package"] for entry in json.loads(told)["task_types"]}
    assert listed["defining_sentiment"] == "aitp-sentiment 1.0.0"
    assert listed["defining_topics"] == ""
