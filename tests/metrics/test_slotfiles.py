"""The files survive what happens to files."""

from __future__ import annotations

import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from aitp.metrics import allocate, open_metrics, prepare_directory
from tests.metrics.reading import scrape, value

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "cut": lambda good: good[:100],
    "zeroed in the middle": lambda good: good[:40] + bytes(200) + good[240:],
    "length beyond the file": lambda good: struct.pack("i", 1 << 30) + good[4:],
    "negative length": lambda good: struct.pack("i", -8) + good[4:],
    "text": lambda good: b"not a metrics file\n" * 40,
    "labels that are none": lambda good: good.replace(b'{"status": "success"}', b'["status", "success"]'),
    "key that is no JSON": lambda good: good.replace(b'["oauth', b"!!oauth!"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_set_aside_by_the_next_owner_of_its_slot(
    tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    metrics = open_metrics(tmp_path, 101)
    metrics.auth(success=True)
    metrics.close()
    path = tmp_path / "counter_101.db"
    path.write_bytes(damage(path.read_bytes()))

    for _ in range(3):
        open_metrics(tmp_path, 101).auth(success=True)

    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 3
    assert (tmp_path / "counter_101.db.damaged").exists()


def test_a_damaged_file_of_a_slot_that_nobody_owns_is_set_aside_at_start(tmp_path: Path) -> None:
    (tmp_path / "counter_150.db").write_bytes(b"no metrics file" * 99)

    prepare_directory(tmp_path)

    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 0


def test_a_sound_file_that_was_cut_has_all_its_space_again(tmp_path: Path) -> None:
    """Else a full disk would kill whoever counts more than there was."""
    open_metrics(tmp_path, 101).auth(success=True)
    path = tmp_path / "counter_101.db"
    os.truncate(path, 4_096)

    open_metrics(tmp_path, 101).auth(success=True)

    assert path.stat().st_size == path.stat().st_blocks * 512 > 4_096
    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 2


def test_a_sound_file_is_left_alone(tmp_path: Path) -> None:
    open_metrics(tmp_path, 101).auth(success=True)

    prepare_directory(tmp_path)

    assert not list(tmp_path.glob("*.damaged"))
    assert value(scrape(tmp_path), "oauth_token_requests_total", status="success") == 1


def test_the_space_of_a_file_is_taken_when_it_is_made(tmp_path: Path) -> None:
    """A sparse page on a full disk would kill the process that writes to it."""
    open_metrics(tmp_path, 101)
    prepare_directory(tmp_path)

    for path in tmp_path.iterdir():
        stat = path.stat()
        assert stat.st_blocks * 512 >= stat.st_size > 0, path.name


def test_a_file_that_the_disk_has_no_room_for_is_not_left_half_made(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            allocate(tmp_path / "counter_1.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []


def test_a_file_grows_when_it_is_full(tmp_path: Path) -> None:
    models = tuple(f"model-{n}" for n in range(300))
    metrics = open_metrics(tmp_path, 101, models)

    for model in models:
        metrics.tokens("openai", model, "prompt_tokens", 2)
        metrics.tokens("openai", model, "total_tokens", 3)

    series = scrape(tmp_path)
    assert value(series, "openai_tokens_used_total", model="model-0", type="total_tokens") == 3
    assert value(series, "openai_tokens_used_total", model="model-299", type="prompt_tokens") == 2
