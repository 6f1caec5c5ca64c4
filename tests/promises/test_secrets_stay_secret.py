"""Secrets stay secret: what is planted in addresses, variables and config files is found nowhere else afterwards.

Every byte of every file that a night leaves behind is searched, and everything that it prints. What an object store or
a source may receive and may answer is tested by tests/test_object_store.py and tests/datasets/test_packages.py; what
Prefect keeps, by test_secrets_stay_out_of_prefect.py.
"""

import base64
import gzip
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.engine import START_SECONDS, clean_environment
from tests.mirror import FILES, OTHER, PACKED, Answer, Site
from tests.promises.conftest import Tried
from tests.promises.mutants import Mutant

RUN_DATE = "2026-01-31"
CANARY = "cnryplanted"  # every secret begins so
NOBODY = "127.0.0.1:9"  # the port of the service "discard", which no machine offers any more


def secret(where: str) -> str:
    return CANARY + where


LOGIN, QUERY = f"{secret('user')}:{secret('password')}", f"token={secret('query')}"


def address(scheme: str, location: str) -> str:
    """With secrets wherever an address may have one."""
    return f"{scheme}://{LOGIN}@{location}?{QUERY}"


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": secret("aws"),
    "AWS_SESSION_TOKEN": secret("session"),
    "PREFECT_API_KEY": secret("key"),
    "PREFECT_API_AUTH_STRING": f"admin:{secret('auth')}",
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{LOGIN}@{NOBODY}/prefect?{QUERY}",
    "PIP_INDEX_URL": address("https", NOBODY),
    "NPM_CONFIG_REGISTRY": address("https", NOBODY),
    "SLACK_TOKEN": secret("slack"),
    "GITHUB_TOKEN": secret("github"),
}


# Where secrets are looked for

FORMS = {
    "as it is": CANARY.encode(),
    "UTF-16": CANARY.encode("utf-16-le"),
    "in hex": CANARY.encode().hex().encode(),
    # The first and the last digits hang on what stands beside it.
    **{f"base64 {at}": base64.b64encode(bytes(at) + CANARY.encode())[4 if at else 0 : -4] for at in range(3)},
}


def found_in(data: bytes, what: dict[str, bytes]) -> list[str]:
    return [form for form, needle in what.items() if needle in data]


def contents(path: Path) -> Iterator[bytes]:
    """A stored file and its contents: columns, gzip, pictures in a page."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        yield repr((table.schema.metadata, [field.metadata for field in table.schema])).encode()
        for column in table.columns:
            for chunk in column.chunks:
                plain = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
                yield from (buffer.to_pybytes() for buffer in plain.buffers() if buffer is not None)
    elif data.startswith(b"\x1f\x8b"):
        yield gzip.decompress(data)
    for embedded in re.findall(rb"base64,([A-Za-z0-9+/=]+)", data):
        yield base64.b64decode(embedded)


def leaks(folder: Path, what: dict[str, bytes]) -> dict[str, list[str]]:
    """Files below `folder` that show it, in which form; it may be in their names too."""
    found: dict[str, list[str]] = {}
    for path in folder.rglob("*"):
        forms = found_in(os.fsencode(path.relative_to(folder)), what)
        for data in contents(path) if path.is_file() else ():
            forms += found_in(data, what)
        if forms:
            found[str(path.relative_to(folder))] = forms
    return found


def searched(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


# A machine full of secrets


@dataclass(frozen=True)
class Machine:
    """Everything a run can write is in `left`; the config files are elsewhere."""

    left: Path
    configs: Path
    environment: dict[str, str]

    def config(self, name: str, text: str) -> str:
        path = self.configs / f"{name}.toml"
        path.write_text(text)
        return str(path)

    def python(self, code: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            cwd=self.left / "work",
            env=self.environment | variables,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )


def machine_in(folder: Path) -> Machine:
    left, configs = folder / "left", folder / "configs"
    folders = {name: left / name for name in ("work", "cache", "prefect", "scratch", "homeofsomebody")}
    for each in (configs, *folders.values()):
        each.mkdir(parents=True)
    environment = clean_environment(folders["prefect"]) | {
        "HOME": str(folders["homeofsomebody"]),
        "USER": "nameofsomebody",
        "LOGNAME": "nameofsomebody",
        "TMPDIR": str(folders["scratch"]),
        "AWS_ACCESS_KEY_ID": secret("id"),
        "AWS_REGION": "us-east-1",
        "MNIST_PIPELINE_CACHE": str(folders["cache"]),
        "MNIST_PIPELINE_DATASET": "toy",
        "MNIST_PIPELINE_SHARD_ROWS": "2",
    }
    return Machine(left, configs, environment | SECRETS)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return machine_in(tmp_path)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Serves the toy data set; in other folders other bytes, an error status, and a redirect."""
    answers = {name: Answer(data) for name, data in PACKED.items()}
    for name in PACKED:
        answers[f"other/{name}"] = Answer(gzip.compress(OTHER))
        answers[f"closed/{name}"] = Answer(QUERY.encode(), 403)
        answers[f"moved/{name}"] = Answer(status=302, headers={"Location": address("http", f"{NOBODY}/")})
    site = Site(answers)
    yield site
    site.close()


def data_set(name: str, url: str) -> str:
    """Its entry in a config file, with one source."""
    files = [file.model_dump(exclude_none=True) for file in FILES]
    images, labels = (
        "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in file.items()) + " }" for file in files
    )
    splits = "".join(
        f"[datasets.{name}.splits.{split}]\nimages = {images}\nlabels = {labels}\n" for split in ("test", "train")
    )
    source = f'[[datasets.{name}.sources]]\nkind = "web"\nurl = "{url}"\n'
    return f'[datasets.{name}]\ntitle = "Toy"\n{splits}{source}'


# Commands one after another, each with variables of its own; the last line says how they ended.
# A source is asked again at once.
COMMANDS = """
import json, os, sys
from mnist_pipeline.cli import app
from mnist_pipeline.datasets.sources import fetching

fetching.PAUSES_SECONDS = tuple(0 for _ in fetching.PAUSES_SECONDS)
ends = []
for variables, words in json.loads(sys.argv[1]):
    before = dict(os.environ)
    os.environ.update(variables)
    print("command:", *(word for word in words[:3] if ":/" not in word), file=sys.stderr, flush=True)
    try:
        app(words)
    except SystemExit as end:
        ends.append(end.code)
    os.environ.clear()
    os.environ.update(before)
print(json.dumps(ends))
"""
Attempt = tuple[int, dict[str, str], list[str]]  # the exit code expected, variables, words


def whole_nights(config: str) -> list[Attempt]:
    """Everything that the command can do with a night, and does without refusing."""
    with_config: list[list[str]] = [
        ["--verbose", "run", "--direct", "--run-date", RUN_DATE],
        ["run", "--direct", "--run-date", RUN_DATE],
        ["backfill", "--direct", "--from", "2026-01-30", "--to", RUN_DATE],
        ["fetch"],
        ["train", "--direct", "--epochs", "1", "--out", "new.safetensors"],
        ["promote", "new.safetensors", "--force"],
        ["show"],
        ["images"],
        ["report"],
        ["reindex"],
        ["verify"],
        ["runs"],
    ]
    return [(0, {}, [*words, "--config", config]) for words in with_config]


def refused_nights(machine: Machine, site: Site, config: str) -> list[Attempt]:
    """What can be wrong with whatever holds a secret; a traceback says more than a message."""
    run = ["--verbose", "run", "--direct", "--run-date", "2026-01-29"]
    source = f'[[datasets.toy.sources]]\nkind = "web"\nurl = "{address("http", site.place)}"\n'
    texts = {
        "TOML": f'[datasets.toy]\npassword = {secret("bare")}"\n',
        "key": f'{source}passwords = "{secret("key")}"\n',
        "kind": f'[[datasets.toy.sources]]\nkind = "ftp"\nurl = "{address("ftp", "mirror.test")}"\n',
        "space": f'[[datasets.toy.sources]]\nkind = "web"\nurl = "{address("http", "mirror test")}"\n',
        "unpinned": '[datasets.mine]\ntitle = "Mine"\n[datasets.mine.splits.test]\nimages = { name = "a" }\n'
        + source.replace("toy", "mine"),
        "outputs": f'outputs = "{address("s3", "nights/a")}"\n',
        "weights": f'weights = "{address("s3", "nights/a.npz")}"\n',
        "cluster": f'cluster = "{address("tcp", "127.0.0.1:8786")}"\n',
        "runner": f'runner = "{address("tcp", "127.0.0.1:8786")}"\n',
        "images": f'images = "{address("https", "mirror.test/a.parquet")}"\n',
        "date": f'run_date = "{address("https", "mirror.test")}"\n',
        "gates": f'[gates.toy]\nmin_accuracy = "{address("https", "mirror.test")}"\n',
    }
    attempts: list[Attempt] = [(2, {}, [*run, "--config", machine.config(name, text)]) for name, text in texts.items()]
    attempts += [
        (4, {}, [*run, "--dataset", name, "--config", config])
        for name in ("nobody", "other", "closed", "moved", "gone")
    ]
    for words in misplaced(address("s3", "nights/a")):
        attempts.append((5 if any(word in NAMING_A_RUN for word in words) else 2, {}, ["--verbose", *words]))
    for flag in ("data-dir", "images", "cache", "outputs", "weights", "cluster"):
        where = address("tcp" if flag == "cluster" else "s3", "nights/a")
        attempts.append((2, {}, [*run, f"--{flag}", where]))
        attempts.append((2, {f"MNIST_PIPELINE_{flag.upper().replace('-', '_')}": where}, run))
    attempts += [
        (2, {}, [*run, "--config", address("https", "mirror.test/a.toml")]),
        (2, {"MNIST_PIPELINE_DATASETS": f'{{"toy": "{address("http", site.place)}"'}, run),
        (2, {"MNIST_PIPELINE_GATES": f'{{"toy": "{address("http", site.place)}"}}'}, run),
        (2, {}, ["--verbose", "run", "--config", config]),  # PREFECT_API_URL has a password
        (2, {}, ["--verbose", "doctor", "--config", config]),
        (2, {}, ["--verbose", "setup", "--project", str(Path(__file__).parents[2])]),
    ]
    return attempts


NAMING_A_RUN = ("show", "compare", "set", "withdraw", "verify")


def misplaced(where: str) -> list[list[str]]:
    """An address where a command takes a run, a file, a name or a number, or nothing at all."""
    return [
        ["show", where],
        ["show", str(Path(where))],  # `s3:/...`
        ["compare", "latest", where],
        ["baseline", "set", where],
        ["withdraw", where, "--reason", "why"],
        ["verify", where],
        ["accept", "latest", "--reason", f"see {where}"],
        ["promote", where],
        ["train", "--direct", "--out", f"{where}.safetensors"],
        ["images", "--save", f"{where}.png"],
        ["doctor", "--project", where],
        ["doctor", "--project", ".", "--outputs", where],
        ["fetch", "--split", where],
        ["prune", "--keep-days", where],
        ["runs", where],
        ["run", f"--nothing={where}"],
        [where],
        *(["run", "--direct", f"--{name}", where] for name in ("dataset", "run-date", "runner", "batch-rows")),
    ]


def data_sets(site: Site) -> str:
    locations = {"toy": f"{site.place}/", "nobody": f"{NOBODY}/"}
    locations |= {name: f"{site.place}/{name}/" for name in ("other", "closed", "moved", "gone")}
    return "".join(data_set(name, address("http", location)) for name, location in locations.items())


@dataclass(frozen=True)
class Nights:
    """What came of all attempts on one machine."""

    machine: Machine
    attempts: list[Attempt]
    ends: list[int]
    said: str


@pytest.fixture(scope="module")
def nights(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Nights:
    machine = machine_in(tmp_path_factory.mktemp("machine"))
    config = machine.config("good", data_sets(site))
    attempts = [*whole_nights(config), *refused_nights(machine, site, config)]
    words = [(variables, words) for _, variables, words in attempts]
    done = machine.python(COMMANDS, json.dumps(words), PREFECT_API_URL=address("http", f"{NOBODY}/api"))
    return Nights(machine, attempts, json.loads(done.stdout.splitlines()[-1]), done.stdout + done.stderr)


def test_no_secret_is_found_in_what_nights_print_and_leave_behind(nights: Nights, site: Site, tried: Tried) -> None:
    assert nights.ends == [code for code, _, _ in nights.attempts], nights.said
    assert found_in(nights.said.encode(), FORMS) == [], nights.said
    assert leaks(nights.machine.left, FORMS) == {}
    assert "Traceback" in nights.said
    assert any(QUERY in path for path in site.asked)  # they were used
    assert f"fetching {FILES[0].name}, {FILES[1].name} of toy from http://{site.place}/\n" in nights.said
    for message in (
        "data_dir: expected a folder, or SCHEME://BUCKET/PREFIX with one of s3, gs, az and nothing else",
        "cache: expected a path on disk, got an address",
        "--config: expected a path on disk, got an address; give its path",
        "PREFECT_API_URL: expected an address without user name, password and query, got one with them; put ",
    ):
        assert message in nights.said
    tried(len(nights.attempts), "commands with secrets planted wherever one may be")
    tried(searched(nights.machine.left), "files searched")


def test_a_store_that_does_not_answer_is_named_without_the_secrets_of_its_endpoint(machine: Machine) -> None:
    done = machine.python(
        "from mnist_pipeline.cli import app; app(['--verbose', 'runs', '--outputs', 's3://nights/a'])",
        AWS_ENDPOINT_URL=address("http", f"{NOBODY}/"),
    )
    assert done.returncode == 5, done.stderr
    assert "s3://nights/a" in done.stderr
    assert found_in((done.stdout + done.stderr).encode(), FORMS) == [], done.stderr


def test_published_files_name_neither_machine_nor_user_nor_folder(nights: Nights, tried: Tried) -> None:
    names = [str(nights.machine.left.parent), "homeofsomebody", "nameofsomebody", str(Path(__file__).parents[2])]
    names += [socket.gethostname()] if len(socket.gethostname()) > 3 else []
    outputs = nights.machine.left / "work" / "outputs"
    assert leaks(outputs, {name: name.encode() for name in names}) == {}
    for manifest in outputs.glob("runs/*/manifest.json"):
        for file in json.loads(manifest.read_text())["files"]:
            assert (manifest.parent / file["path"]).is_file()
            assert not Path(file["path"]).is_absolute()
    tried(searched(outputs), "published files searched for the machine's names")


MUTANTS = (
    Mutant(
        "mnist_pipeline/datasets/catalogue.py",
        "return f\"{scheme}://{address.rpartition('@')[2]}\"",
        'return f"{scheme}://{address}"',
        "test_no_secret_is_found_in_what_nights_print_and_leave_behind",
    ),
    Mutant(
        "mnist_pipeline/orchestration/server.py",
        "if any(sign in address for sign in",
        "if all(sign in address for sign in",
        "test_no_secret_is_found_in_what_nights_print_and_leave_behind",
    ),
    Mutant(
        "mnist_pipeline/settings/types.py",
        "    if is_remote(given):",
        "    if not str(given):",
        "test_no_secret_is_found_in_what_nights_print_and_leave_behind",
    ),
    Mutant(
        "mnist_pipeline/pipeline/evaluation.py",
        "        versions=versions(),",
        '        versions=versions() | {"outputs": str(plan.outputs)},',
        "test_published_files_name_neither_machine_nor_user_nor_folder",
    ),
)
