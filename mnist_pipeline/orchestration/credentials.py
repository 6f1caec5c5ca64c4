"""The password of the Prefect server: made before the server starts, kept in a file that only its owner can read.

Server, worker and commands read it from their environment, as variables of Prefect's own; nothing here sends it.
"""

import os
import secrets
import stat
from pathlib import Path

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

    Raises:
        SettingsError: it cannot be written, or others can read the one that is there.
    """
    auth = new_auth_string()
    lines = f"# Who may use the Prefect server. Keep it to yourself.\n{SERVER_SIDE}={auth}\n{CLIENT_SIDE}={auth}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        if not path.is_file():
            raise SettingsError(
                f"{path}: cannot be written ({error.strerror}); see to the folder, then again"
            ) from error
        if (mode := stat.S_IMODE(path.stat().st_mode)) & OTHERS:
            raise SettingsError(
                f"{path}: expected a file that its owner alone can read, got mode {mode:o}; others may know it: "
                "delete it, then make another, and restart the server with that"
            ) from None
        return False
    with os.fdopen(handle, "w") as file:
        file.write(lines)
    return True
