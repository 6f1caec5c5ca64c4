"""Creates the password of the Prefect server, in a file that only its owner can read, before the server starts.

Server, worker and commands read it from environment variables of Prefect. This module never sends it.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import platformdirs

from mnist_pipeline.errors import SettingsError

SERVER_SIDE, CLIENT_SIDE = "PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"
USER = "mnist"
SECRET_BYTES = 32
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def credentials_file() -> Path:
    """The file with the password of this user's server, outside of any checkout.

    Raises:
        SettingsError: this user has no home folder.
    """
    with suppress(RuntimeError):
        if (folder := platformdirs.user_config_path("mnist-pipeline")).is_absolute():
            return folder / "prefect.env"
    raise SettingsError("HOME: expected a folder of this user for its password, got none; set it, or XDG_CONFIG_HOME")


def new_auth_string() -> str:
    """Generate USER:PASSWORD of letters, digits, `-` and `_`, so that shells and systemd parse it alike."""
    return f"{USER}:{secrets.token_urlsafe(SECRET_BYTES)}"


def make_credentials(path: Path) -> bool:
    """Write a new password to a file that only its owner can read, unless it exists; return whether it was written.

    The file appears atomically: a server that started with half of it would accept every client.

    Raises:
        SettingsError: the file cannot be written, or the existing one is incomplete or readable by other users.
    """
    auth = new_auth_string()
    lines = f"# Who may use the Prefect server. Keep it to yourself.\n{SERVER_SIDE}={auth}\n{CLIENT_SIDE}={auth}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.") as file:  # mode 600 from the start
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
            os.link(file.name, path)
    except OSError as error:
        if not path.is_file():
            raise SettingsError(
                f"{path}: cannot be written ({error.strerror}); fix the folder, then try again"
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
