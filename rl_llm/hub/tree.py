"""What a folder holds, as a repository names it."""

from pathlib import Path


def files_in(folder: Path) -> dict[str, Path]:
    """Return the files of a folder and of the folders in it by their path within, such as
    `additional_chat_templates/tool_use.jinja`; what is hidden is for nobody."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*"))}
    return {
        within.as_posix(): path
        for within, path in found.items()
        if path.is_file() and not any(part.startswith(".") for part in within.parts)
    }
