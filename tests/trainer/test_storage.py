"""What cannot be written is one message, and what was there stays."""

import errno
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rl_llm.errors import RunError, StorageError
from rl_llm.trainer.storage import discard, readable_bytes, write_text, writing

WEIGHTS = {"w": torch.zeros(5000)}


@contextmanager
def file_size_limit(num_bytes):
    """Let the system refuse files of more bytes, as it refuses them on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def torch_save(path):
    with path.open("wb") as file:
        torch.save(WEIGHTS, file)


def copy_a_tree(path):
    shutil.copytree(path.with_name("source"), path)


@pytest.mark.parametrize("write", [torch_save, lambda path: save_file(WEIGHTS, path), copy_a_tree])
def test_what_the_system_refuses_is_one_error_whoever_wraps_it(tmp_path, write):
    target = tmp_path / "out"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "w").write_bytes(bytes(5000))
    expected = rf"^{target} cannot be written: File too large \(.* are free\); raise the limit on"
    with pytest.raises(StorageError, match=expected), file_size_limit(3000), writing(target):
        write(target)


def test_an_error_that_says_what_it_is_about_passes_through(tmp_path):
    inner = tmp_path / "inner"
    expected = f"^{inner} cannot be written"
    with pytest.raises(StorageError, match=expected), writing(tmp_path), writing(inner):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(RunError, match="nothing to learn from"), writing(tmp_path):
        try:
            (tmp_path / "gone").read_text()
        except OSError:
            raise RunError("nothing to learn from")  # noqa: B904 - its context is what matters.


def test_an_error_of_another_kind_passes_through(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory") as error, writing(tmp_path):
        raise RuntimeError("out of memory")
    assert not isinstance(error.value, StorageError)


@pytest.mark.parametrize(
    ("number", "reason", "way_out"),
    [
        (errno.ENOSPC, "No space left on device", "make room there"),
        (errno.EDQUOT, "Disk quota exceeded", "make room within the quota"),
        (errno.EROFS, "Read-only file system", "make it writable"),
        (errno.EIO, "Input/output error", "mend that"),
    ],
)
def test_the_way_out_follows_the_reason(tmp_path, number, reason, way_out):
    target = tmp_path / "not" / "there"
    expected = rf"{reason} \(.* are free\); {way_out}$"
    with pytest.raises(StorageError, match=expected), writing(target):
        raise OSError(number, os.strerror(number))


def test_a_text_that_does_not_fit_leaves_the_old_one_and_nothing_else(tmp_path):
    file = tmp_path / "resolved.yaml"
    write_text(file, "old")
    with pytest.raises(StorageError, match="File too large"), file_size_limit(10):
        write_text(file, "new" * 100)
    assert [path.name for path in tmp_path.iterdir()] == ["resolved.yaml"]
    assert file.read_text() == "old"
    write_text(file, "new")
    assert file.read_text() == "new"


def test_a_text_is_on_the_disk_before_it_has_its_name_and_its_name_is_behind_that(
    tmp_path, monkeypatch
):
    flushed = []

    def fsync(handle):
        flushed.append((Path(os.readlink(f"/proc/self/fd/{handle}")).name, file.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    file = tmp_path / "resolved.yaml"
    write_text(file, "new")
    assert flushed == [(".resolved.yaml.partial", False), (tmp_path.name, True)]


def test_a_folder_is_discarded_as_a_whole(tmp_path):
    folder = tmp_path / "step-000001"
    (folder / "trainer").mkdir(parents=True)
    (tmp_path / ".step-000001.deleted").mkdir()
    discard(folder)
    discard(folder)
    assert list(tmp_path.iterdir()) == []


def test_sizes_are_exact_below_100_kb_and_rounded_above():
    assert [readable_bytes(n) for n in (0, 4096, 1_048_576, 2_500_000_000)] == [
        "0 bytes",
        "4,096 bytes",
        "1.0 MB",
        "2.5 GB",
    ]
