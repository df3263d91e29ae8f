"""A hub on this machine, an environment that leads there, and files to push."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from rl_llm.hub import Job, Patience
from rl_llm.plugins import load_module

fake_hub = load_module(Path(__file__).parent / "fake_hub.py")

QUICK = Patience(first_s=0.1, most_s=5.0, end_first_s=0.1, end_tries=3)


@pytest.fixture
def leads_to(tmp_path, monkeypatch):
    """Let this process and those that it starts push to an address, with a token or without."""

    def lead(url, token=fake_hub.TOKEN):
        stored = tmp_path / "no-login"
        for name in ("HF_OIDC_RESOURCE", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("HF_TOKEN", token)
        monkeypatch.setenv("HF_TOKEN_PATH", str(stored))
        # The library reads these once, as it is imported.
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(stored))

    return lead


@pytest.fixture
def hub(leads_to):
    """A hub that this process and those that it starts push to."""
    started = fake_hub.FakeHub()
    leads_to(started.url)
    yield started
    started.close()


@pytest.fixture
def job(tmp_path):
    """Return a job with a large file and two small ones."""
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntags: [a]\n---\n\n# A card\n", encoding="utf-8")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(2_000_000))
    files = {file.name: str(file) for file in folder.iterdir()}

    def make(**changes):
        return Job(**{"repo_id": "me/adder", "files": files, "message": "Add it", **changes})

    return make


@pytest.fixture
def pushed(hub):
    """Say whether a branch of the repository holds just what a job names, byte by byte."""

    def compare(job, branch="main"):
        found = {k: v for k, v in hub.files["me/adder"][branch].items() if k[0] != "."}
        return found == {name: Path(file).read_bytes() for name, file in job.files.items()}

    return compare
