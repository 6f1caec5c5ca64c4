"""All attacks by weights files, of whatever format, and random changes of good ones."""

import gzip
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.attacks import archives, pickles, tensors
from tests.attacks.networks import SUBJECTS, VALID, Attack

# Accepted results of random changes: a network, or any error message.
EITHER = ""
ADVICE = dict.fromkeys(VALID, "give another weights file") | {
    ".pkl": "a pickle is read only if it is a plain dictionary"
}
NOTHING = [b"", b"{}", b"\0" * 100, b"<!DOCTYPE html><html></html>", b"PK\x05\x06" + bytes(18)]


def attacks(sentinel: Path) -> list[Attack]:
    """Every attack; those that could run anything would create `sentinel`."""
    return [
        *(
            Attack(f"{what} {number}", suffix, data, refusal)
            for what, suffix, cases in [
                ("safetensors", ".safetensors", tensors.BROKEN),
                ("npz", ".npz", archives.BROKEN),
                ("npz that unpacks to more or less", ".npz", archives.bombs()),
                ("npz of objects", ".npz", [(archives.of_objects(sentinel), "got object")]),
                ("pickle", ".pkl", pickles.others()),
                ("pickle and more", ".pkl", pickles.harmless_until_unpickled(sentinel)),
            ]
            for number, (data, refusal) in enumerate(cases)
        ),
        *hostile(sentinel),
        *(
            Attack(f"{other} in {suffix}", suffix, data, "expected ")
            for suffix in VALID
            for other, data in VALID.items()
            if other != suffix
        ),
        *(
            Attack(f"nothing {number} in {suffix}", suffix, data, "expected ")
            for suffix in VALID
            for number, data in enumerate(NOTHING)
        ),
        *(Attack(f"gzip of {suffix}", suffix, gzip.compress(data), "expected ") for suffix, data in VALID.items()),
    ]


def hostile(sentinel: Path) -> list[Attack]:
    """Pickles that run something in any unpickler, under every suffix, lest a second reader should try them."""
    return [
        Attack(f"{name}, as {suffix}", suffix, make(sentinel), f"expected .*, got .*; {advice}")
        for name, make in pickles.HOSTILE.items()
        for suffix, advice in ADVICE.items()
    ]


def altered(seeds: Iterable[int]) -> Iterator[Attack]:
    """A random change of each good file for each seed: flipped, cut, inserted, spliced with another."""
    for number, (suffix, data) in enumerate(SUBJECTS):
        for seed in seeds:
            changes = random.Random(f"{number} {seed}")
            changed = bytearray(data)
            for _ in range(changes.choice([1, 1, 2, 3, 8])):
                change(changed, changes)
            yield Attack(f"{number} altered {seed}", suffix, bytes(changed), EITHER)


def change(data: bytearray, how: random.Random) -> None:
    """Change `data` somewhere, mostly near one of its ends, where its structure is."""
    span = how.choice([64, 900, 900, len(data)])
    at = how.randrange(min(span, len(data))) * how.choice([1, -1]) % len(data)
    match how.choice(["flip", "byte", "cut", "insert", "splice", "end"]):
        case "flip":
            data[at] ^= 1 << how.randrange(8)
        case "byte":
            data[at] = how.choice([0, 1, 0x2E, 0x7F, 0x80, 0xFF, how.randrange(256)])
        case "cut":
            del data[at + 1 : at + 1 + how.choice([1, 4, 100])]
        case "insert":
            data[at:at] = how.randbytes(how.choice([1, 4, 100]))
        case "splice":
            other = how.choice(SUBJECTS)[1]
            start = how.randrange(min(900, len(other)))
            data[at : at + 200] = other[start : start + 200]
        case "end":
            del data[at + 1 :]
