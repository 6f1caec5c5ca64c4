"""The password of the Prefect server: made before the server starts, kept in a file that only its owner can read.

Server, worker and commands read it from their environment, as variables of Prefect's own; nothing here sends it.
"""

import os
import secrets
import stat
from pathlib import Path
from tempfile import NamedTemporaryFile

import platformdirs

from mnist_pipeline.errors import SettingsError

SERVER_SIDE, CLIENT_SIDE = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
USER = "mnist"
SECRET_BYTES = 32
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def credentials_file() -> Path:
    """Where the password of this user's server is kept: outside of any checkout."""
    return platformdirs.user_config_path("mnist-pipeline") / "prefect.env"


def new_auth_string() -> str:
    """USER:PASSWORD, of letters, digits, `-` and `_`, so that shells and systemd read it alike."""
    return f"{USER}:{secrets.token_urlsafe(SECRET_BYTES)}"


def make_credentials(path: Path) -> bool:
    """Write a new password to a file, readable by its owner only, unless there is one; whether it was written now.

    The file appears whole or not at all: a server that is started with half of it would let everybody in.

    Raises:
        SettingsError: it cannot be written, or what is there is not one that this user alone can read.
    """
    auth = new_auth_string()
    lines = f"# Who may use the Prefect server. Keep it to yourself.\n{SERVER_SIDE}={auth}\n{CLIENT_SIDE}={auth}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as file:  # its owner's from the start
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)
    except OSError as error:
        if not path.is_file():
            raise SettingsError(
                f"{path}: cannot be written ({error.strerror}); see to the folder, then again"
            ) from error
        if problem := _problem_with(path):
            raise SettingsError(
                f"{path}: expected a password that this user alone can read, got {problem}; delete it, make "
                "another, and restart the server with that"
            ) from None
        return False
    return True


def _problem_with(path: Path) -> str | None:
    about = path.stat()
    if about.st_uid != os.getuid():
        return "a file of another user"
    if (mode := stat.S_IMODE(about.st_mode)) & OTHERS:
        return f"mode {mode:o}"
    lines = path.read_text(errors="replace").splitlines()
    there = [any(line.startswith(f"{name}={USER}:") for line in lines) for name in (SERVER_SIDE, CLIENT_SIDE)]
    return None if all(there) else f"a file without {SERVER_SIDE} and {CLIENT_SIDE}"
