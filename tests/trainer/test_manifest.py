"""A checkpoint's files are those that were written, or the first that is not is named."""

import json

import pytest

from rl_llm.trainer.manifest import MANIFEST, find_fault, is_sealed, seal, total_bytes


@pytest.fixture
def sealed(tmp_path):
    folder = tmp_path / "step-000001"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "policy.pt").write_bytes(bytes(range(256)) * 16)
    (folder / "state.json").write_text("{}")
    seal(folder)
    return folder


def test_every_file_is_listed_with_its_size_and_sha256(sealed):
    assert json.loads((sealed / MANIFEST).read_text()) == {
        "files": {
            "state.json": {
                "bytes": 2,
                # printf '{}' | sha256sum
                "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            },
            "trainer/policy.pt": {
                "bytes": 4096,
                "sha256": "c8f5d0341d54d951a71b136e6e2afcb14d11ed8489a7ae126a8fee0df6ecf193",
            },
        }
    }
    assert total_bytes(sealed) == 4098


def test_a_folder_as_it_was_sealed_has_no_fault(sealed):
    assert is_sealed(sealed) and find_fault(sealed) is None


def test_a_truncated_file_is_named_with_both_sizes(sealed):
    with (sealed / "trainer" / "policy.pt").open("r+b") as file:
        file.truncate(1024)
    assert find_fault(sealed) == "trainer/policy.pt is truncated: 1,024 of 4,096 bytes"


def test_one_flipped_bit_is_found(sealed):
    file = sealed / "trainer" / "policy.pt"
    content = bytearray(file.read_bytes())
    content[4000] ^= 1
    file.write_bytes(content)
    assert find_fault(sealed) == "trainer/policy.pt has another checksum than it was written with"


def test_a_longer_file_and_a_missing_one_are_named(sealed):
    (sealed / "state.json").write_text("{}\n")
    assert find_fault(sealed) == "state.json is too long: 3 of 2 bytes"
    (sealed / "state.json").unlink()
    assert find_fault(sealed) == "state.json is missing"


def test_a_folder_without_a_manifest_or_with_half_of_one_is_not_whole(sealed):
    manifest = sealed / MANIFEST
    text = manifest.read_text()
    for damaged in (text[: len(text) // 2], "", "[]", '{"files": {"state.json": {}}}'):
        manifest.write_text(damaged)
        assert find_fault(sealed).startswith("manifest.json cannot be read")
        assert total_bytes(sealed) is None
    manifest.unlink()
    assert not is_sealed(sealed) and find_fault(sealed) == "manifest.json is missing"


def test_a_file_that_nobody_listed_does_no_harm(sealed):
    (sealed / ".nfs0001").write_text("")
    assert find_fault(sealed) is None
