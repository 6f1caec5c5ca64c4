"""The commands that are killed and refused: each with what lies there before it, and what must be there after it."""

import gzip
import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from mnist_pipeline.datasets.catalogue import Dataset, IdxFile, Split
from mnist_pipeline.pipeline import evaluation, planning
from mnist_pipeline.pipeline.inputs import open_images
from mnist_pipeline.pipeline.judging import judge_published
from mnist_pipeline.pipeline.promotion import promote
from mnist_pipeline.runs import layout
from mnist_pipeline.runs.staging import staging_directory
from mnist_pipeline.settings import Settings
from mnist_pipeline.store.local import LocalStore
from mnist_pipeline.verdicts.baselines import read_baselines, set_baseline
from mnist_pipeline.verdicts.promotions import current_promotion, record_promotion
from mnist_pipeline.weights.files import encode_weights, load_weights, weights_sha256
from tests.builders import images_name, labels_name, make_split, random_network, small_settings
from tests.mirror import Answer, Site
from tests.promises import oracle
from tests.published import flip_bit, on_disk, opened

ROWS = 25
EARLIER, TONIGHT = "2026-01-30", "2026-01-31"

Look = Callable[[], list[str]]


@dataclass(frozen=True)
class Attempt:
    """A command on the folder `work`.

    Attributes:
        work: everything that it may change; made anew from `template` for each fault.
        template: what is there before.
        earlier: what must never change.
        run: the command, or the part of it that is under attack.
        again: the command once more, as a person or an engine repeats it, from its beginning.
        undone: what `run` has not done.
        undone_again: what `again` has not done.
        damaged: of a run that `run` replaces: as it is until then.
    """

    work: Path
    template: Path
    earlier: oracle.Facts
    run: Callable[[], object]
    again: Callable[[], object]
    undone: Look
    undone_again: Look
    damaged: oracle.Facts | None = None

    def reset(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.template, self.work)

    def unsound(self) -> list[str]:
        """What is not as it must be at any moment."""
        return oracle.unsound(self.work / "outputs", self.earlier, self.damaged) + oracle.unsound_cache(
            self.work / "cache"
        )

    def left(self) -> list[str]:
        """What lies about that nobody reads."""
        return oracle.left(self.work)


class Attempts:
    """Attempts by name, each made when it is asked for first, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._made: dict[str, Attempt] = {}

    def __getitem__(self, name: str) -> Attempt:
        if name not in self._made:
            self._made[name] = ATTEMPTS[name](self._folder / name)
        return self._made[name]


def publishing(root: Path) -> Attempt:
    """Summary, manifest, the rename of a run whose prediction files are all there, and the views."""
    return _publishing(root, lambda publish: publish())


def publishing_unsafely(root: Path) -> Attempt:
    """The same by a publisher who puts one file after the other in its final place: what the oracle is for."""

    def one_by_one(store: LocalStore, source: str, target: str, first: str = "") -> bool:
        assert target.startswith(layout.RUNS)
        for entry in store.list(source):
            path = store.location / f"{target}{entry.name.removeprefix(source)}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.location / entry.name, path)
        return True

    def unsafely(publish: Callable[[], object]) -> None:
        with mock.patch.object(LocalStore, "move", one_by_one):
            publish()

    return _publishing(root, unsafely)


def repairing(root: Path) -> Attempt:
    """A run in the place of a damaged one: its record, the way of the damaged one to quarantine, and the views."""

    def damage(outputs: Path, run_id: str) -> None:
        flip_bit(outputs / "runs" / run_id / "summary.parquet")

    return _publishing(root, lambda publish: publish(), damage)


def judging(root: Path) -> Attempt:
    """Comparison, flips, gates and the rename of a verdict on a run that is published, and the views."""
    settings = _earlier_night(root)
    published = evaluation.evaluate(settings)
    return _attempt(
        root,
        run=partial(judge_published, settings, published),
        again=partial(_night, settings),
        undone=lambda: _judged(on_disk(settings.outputs), published.run_id),
    )


def promoting(root: Path) -> Attempt:
    """The archive and the record of other weights, once they have been evaluated and judged."""
    settings = _settings(root)
    outputs = on_disk(settings.outputs)
    first, second = (root / f"{number}.safetensors" for number in (1, 2))
    for number, path in ((1, first), (2, second)):
        path.write_bytes(encode_weights(random_network(number)))
    promote(settings, first, force=True)
    earlier = oracle.facts(outputs)
    promote(settings, second, force=True)
    promotion, candidate = current_promotion(opened(outputs)), load_weights(second)
    assert promotion is not None
    for path in (*outputs.glob("promotions/*.json"), *outputs.glob("weights/*")):
        if f"promotions/{path.name}" not in earlier and promotion.previous_sha256 not in path.name:
            path.unlink()

    def run() -> None:
        opened(outputs).archive_weights(candidate)
        record_promotion(opened(outputs), promotion)

    def undone() -> list[str]:
        current = load_weights(planning.current_weights(opened(outputs)))
        promotions = len(list((outputs / "promotions").iterdir()))
        right = (weights_sha256(current), promotions) == (promotion.weights_sha256, 2)
        return [] if right else [f"{promotions} promotions, the last one of {weights_sha256(current)}"]

    again = partial(promote, settings, second, force=True)
    return _attempt(root, run=run, again=again, undone=lambda: undone)


def pinning(root: Path) -> Attempt:
    """Another run as the baseline."""
    settings = _earlier_night(root)
    evaluation.evaluate(settings)
    outputs, who = on_disk(settings.outputs), (settings.dataset, settings.split)
    names = sorted(path.name for path in outputs.glob("runs/*"))
    set_baseline(opened(outputs), *who, names[0])
    run = partial(set_baseline, opened(outputs), *who, names[1])

    def undone() -> list[str]:
        found = read_baselines(opened(outputs))
        return [] if found == {"/".join(who): names[1]} else [f"baselines are {found}"]

    return _attempt(root, run=run, again=run, undone=lambda: undone)


def beginning(root: Path) -> Attempt:
    """A night from nothing: the download of its source files, its shards, its predictions, and their publication."""
    make_split(root / "data", ROWS)
    content = {name: (root / "data" / name).read_bytes() for name in (images_name(), labels_name())}
    site = Site({f"{name}.gz": Answer(gzip.compress(data)) for name, data in content.items()})
    pinned = [
        IdxFile(name=name, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for name, data in content.items()
    ]
    dataset = Dataset(title="Toy", splits={"test": Split(images=pinned[0], labels=pinned[1])}, sources=(site.source,))
    settings = _settings(root, data_dir=None, datasets={"toy": dataset})
    return _whole_night(root, settings)


def unpacking(root: Path) -> Attempt:
    """A night from a folder of files that are gzipped."""
    settings = _settings(root)
    for name in (images_name(), labels_name()):
        (root / "data" / f"{name}.gz").write_bytes(gzip.compress((root / "data" / name).read_bytes()))
        (root / "data" / name).unlink()
    return _whole_night(root, settings)


ATTEMPTS: dict[str, Callable[[Path], Attempt]] = {
    "publish": publishing,
    "publish unsafely": publishing_unsafely,
    "repair": repairing,
    "judge": judging,
    "promote": promoting,
    "pin": pinning,
    "download": beginning,
    "unpack": unpacking,
}


def _settings(root: Path, run_date: str = TONIGHT, **changes: Any) -> Settings:
    """Settings of a night in which one worker does everything, with other weights than those of other nights."""
    weights = root / f"weights-{run_date}.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.write_bytes(encode_weights(random_network(int(run_date[-2:]))))
    places = {"cache": root / "work" / "cache", "outputs": root / "work" / "outputs"}
    given: dict[str, Any] = {"run_date": run_date, "weights": weights, "workers": 1, **places}
    return small_settings(root, ROWS, **(given | changes))


def _night(settings: Settings) -> None:
    judge_published(settings, evaluation.evaluate(settings))


def _earlier_night(root: Path) -> Settings:
    """Publishes and judges the night before; the settings of tonight."""
    _night(_settings(root, EARLIER))
    return _settings(root)


def _publishing(
    root: Path,
    how: Callable[[Callable[[], object]], object],
    damage: Callable[[Path, str], None] | None = None,
) -> Attempt:
    """Tonight's run, or with `damage` tonight's run once more, in the place of one to which that was done."""
    settings = _earlier_night(root)
    outputs = on_disk(settings.outputs)
    if damage:
        damage(outputs, evaluation.evaluate(settings).run_id)
    plan = planning.make_plan(settings, open_images(settings))
    plan = evaluation.looked_at(plan, [evaluation.build_shards(plan, group) for group in plan.groups])
    with staging_directory(plan.outputs, plan.run_id) as staging:
        checkpoints = [made for group in plan.groups for made in evaluation.predict_shards(plan, staging, group)]
        shutil.copytree(root / "work", root / "killed")  # before the staging directory is given up
    shutil.rmtree(root / "work")
    (root / "killed").rename(root / "work")

    def publish() -> None:
        with staging_directory(plan.outputs, plan.run_id) as staging:
            evaluation.publish(plan, staging, checkpoints, evaluation.Timings(), "direct")

    return _attempt(
        root,
        run=lambda: how(publish),
        again=partial(_night, settings),
        undone=lambda: _published(outputs, plan.run_id),
        undone_again=lambda: _judged(outputs, plan.run_id),
        damaged_run=plan.run_id if damage else None,
    )


def _whole_night(root: Path, settings: Settings) -> Attempt:
    def undone() -> Look:
        outputs = on_disk(settings.outputs)
        (run,) = (outputs / "runs").iterdir()
        return _judged(outputs, run.name)

    return _attempt(root, run=partial(_night, settings), again=partial(_night, settings), undone=undone)


def _attempt(
    root: Path,
    run: Callable[[], object],
    again: Callable[[], object],
    undone: Callable[[], Look],
    undone_again: Callable[[], Look] | None = None,
    damaged_run: str | None = None,
) -> Attempt:
    """An attempt on what lies in `work` now.

    Run and repeated once undisturbed, which brings in all that is imported late; `undone` looks at what it comes to.
    """
    work, template = root / "work", root / "template"
    work.mkdir(exist_ok=True)
    shutil.copytree(work, template)
    run()
    looks = [undone()]
    again()
    looks.append((undone_again or undone)())
    earlier, damaged = oracle.facts(template / "outputs"), None
    if damaged_run is not None:
        damaged = {name: found for name, found in earlier.items() if name.startswith(f"runs/{damaged_run}/")}
        earlier = {name: found for name, found in earlier.items() if name not in damaged}
        looks = [_repaired(work / "outputs", look, damaged) for look in looks]
    attempt = Attempt(work, template, earlier, run, again, looks[0], looks[1], damaged)
    for look in (attempt.unsound, *looks):
        assert look() == [], "of what nothing has disturbed"
    return attempt


def _published(outputs: Path, run_id: str) -> Look:
    return partial(oracle.unpublished, outputs, run_id, oracle.table_hashes(outputs / "runs" / run_id), ROWS)


def _judged(outputs: Path, run_id: str) -> Look:
    published = _published(outputs, run_id)
    (verdict,) = (outputs / "verdicts" / run_id).iterdir()
    judged = partial(oracle.unjudged, outputs, run_id, oracle.table_hashes(verdict))
    return lambda: [*published(), *judged()]


def _repaired(outputs: Path, published: Look, damaged: oracle.Facts) -> Look:
    return lambda: [*published(), *oracle.unrepaired(outputs, damaged)]
