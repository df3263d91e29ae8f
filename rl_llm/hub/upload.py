"""One push as the hub's protocol has it: repository, branch, files, one commit.

Runs in a process of its own (`child.py`), since the settings of the hub's library and its threads
are those of a whole process.
"""

from urllib.parse import quote

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    get_session,
    get_token,
    set_client_factory,
)
from huggingface_hub.errors import RevisionNotFoundError
from huggingface_hub.hf_api import ModelInfo

from rl_llm import __version__
from rl_llm.errors import PushRefused
from rl_llm.hub.access import LOG_IN, endpoint, token_source
from rl_llm.hub.job import Job, Outcome

MAIN = "main"
_ADAPTER = "adapter_config.json"
_FULL = ("model.safetensors", "model.safetensors.index.json")


def upload(job: Job) -> Outcome:
    """Push, and return where it lies now; raises `PushRefused`, or what the hub's library does."""
    give_up_when_silent(job.stall_s)
    api = HfApi(token=usable_token(job.repo_id), library_name="rl-llm", library_version=__version__)
    repo_id = api.create_repo(job.repo_id, private=job.private, exist_ok=True).repo_id
    found = _revision(api, repo_id, job.revision)
    _check(job, repo_id, found)
    api.create_commit(
        repo_id,
        [
            CommitOperationAdd(path_in_repo=name, path_or_fileobj=path)
            for name, path in sorted(job.files.items())
        ],
        commit_message=job.message,
        revision=job.revision,
    )
    branch = "" if job.revision == MAIN else f"/tree/{quote(job.revision)}"
    return Outcome(url=f"{endpoint()}/{repo_id}{branch}", is_private=bool(found.private))


def usable_token(repo_id: str) -> str:
    """Return the token that the environment or a login gives; raises `PushRefused`."""
    token = get_token()
    if token is None:
        raise PushRefused(f"pushing to {repo_id} needs a token, and there is none; {LOG_IN}")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise PushRefused(
            f"the token of {token_source()} holds characters that no HTTP header can carry; set it "
            "to the token alone"
        )
    return token


def give_up_when_silent(stall_s: float) -> None:
    """Let requests of this process fail after `stall_s` without a byte; by itself the hub's library
    waits forever."""
    made_by_default = get_session()
    kind, hooks = type(made_by_default), made_by_default.event_hooks
    set_client_factory(lambda: kind(event_hooks=hooks, follow_redirects=True, timeout=stall_s))


def _revision(api: HfApi, repo_id: str, revision: str) -> ModelInfo:
    """Return what a branch holds; a new one starts from the repository's first commit, without what
    `main` got since."""
    try:
        return api.model_info(repo_id, revision=revision)
    except RevisionNotFoundError:
        first = api.list_repo_commits(repo_id)[-1].commit_id
        api.create_branch(repo_id, branch=revision, revision=first, exist_ok=True)
        return api.model_info(repo_id, revision=revision)


def _check(job: Job, repo_id: str, found: ModelInfo) -> None:
    """Refuse to show to all what is meant to be private, and to mix two kinds of weights."""
    if job.private and not found.private:
        raise PushRefused(
            f"{repo_id} is public, so all could see what is pushed; allow that with hub.private="
            "false, or `rl-llm push --public`, make it private in its settings, or name another "
            "repository"
        )
    names = {sibling.rfilename for sibling in found.siblings or ()}
    where = f"{repo_id} at {job.revision}"
    way_out = "push to another revision (`rl-llm push --revision NAME`) or another repository"
    if job.is_merged and _ADAPTER in names:
        raise PushRefused(
            f"{where} holds an adapter, which transformers would load in place of merged weights "
            f"beside it; {way_out}"
        )
    if not job.is_merged and not names.isdisjoint(_FULL):
        raise PushRefused(
            f"{where} holds full weights, and transformers would load an adapter beside them in "
            f"their place; {way_out}"
        )
