"""Fuzz the loader of saved models: whatever the two files hold, it loads or raises ValueError with a message.

``python tests/fuzz_store.py --executions 1000000 --seed 0`` takes about a quarter of an hour on one core. Each
execution changes the files of a tiny model and calls ``ScTAG.load``. Half of the changes leave the hashes wrong, as
accidents do; for the others the hashes are made right again, so that the checks behind them are reached. Watched
throughout: the kind of error, that what loads with its hashes left alone is what was saved, no file opened but the two,
nothing compiled, executed, started or unpickled, and (of a sample) the memory that Python allocates at its peak; as a
script also the address space, so that nothing outside Python can allocate much either. Execution ``i`` depends on the
seed and ``i`` alone: ``--seed s --start i --executions 1`` repeats it.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import re
import struct
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

import sctag_tools as sctag
from sctag_tools._core import store

# Python's objects of a JSON value, and the checks, are larger than the file by a factor that does not grow with it.
BYTES_PER_BYTE, BYTES_AT_LEAST = 64, 512 * 1024
ADDRESS_SPACE = 512 * 2**20  # that a whole campaign may add
_SAMPLED = 200  # one of so many executions is watched by tracemalloc
_FORBIDDEN = ("pickle.find_class", "exec", "compile", "subprocess.", "os.", "shutil.", "socket.", "ctypes.", "marshal.")

Rng = random.Random
Files = tuple[bytes, bytes]  # record, arrays


class Planted:
    """What would tell if a pickle were read."""

    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"import {__name__} as m; m.Planted.ran = True",)


# --- the files that are changed ---


def tiny_models(folder: Path) -> list[Files]:
    """The files of small models of several kinds; the first is the smallest, and is changed most often."""
    rng = np.random.default_rng(0)
    adata = AnnData(rng.poisson(3, (12, 8)).astype(np.float32) + 1)
    adata.obs["donor"] = ["a", "b"] * 6
    adata.obsm["X_rep"] = rng.normal(size=(12, 3)).astype(np.float32)
    sctag.pp.build_graph(adata, 4)
    sctag.pp.build_graph(adata, 4, use_rep="X_rep", key_added="of_rep")
    plain = {"n_networks": 1, "n_hidden": 2, "n_latent": 1}
    batched = {"likelihood": "zinb", "graph_weight": 0.1, "batch_key": "donor", "neighbors_key": "of_rep"}
    found = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*batches have fewer than", UserWarning)  # small ones make small files
        for number, options in enumerate([plain, plain | {"n_networks": 2, "n_hops": 2} | batched]):
            model = sctag.ScTAG(adata, 2, **options)
            model.train(pretrain_epochs=1, cluster_epochs=1, accelerator="cpu", progress_bar=False)
            model.save(folder / str(number))
            found.append(tuple((folder / str(number) / name).read_bytes() for name in (store.RECORD, store.ARRAYS)))
    return found


def header_of(arrays: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file and what comes after it."""
    (length,) = struct.unpack("<Q", arrays[:8])
    return json.loads(arrays[8 : 8 + length]), arrays[8 + length :]


def with_header(header: bytes | dict[str, Any], data: bytes, length: int | None = None) -> bytes:
    """A safetensors file, whose header may claim another length."""
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_right_hashes(record: bytes, arrays: bytes) -> Files:
    """Both files as someone would write them who knows the format; unchanged if the record is no JSON object."""
    import hashlib

    try:
        content = json.loads(record)
        if not isinstance(content, dict):
            return record, arrays
        old = content.get("sha256"), content.get("arrays_sha256")
        content["arrays_sha256"] = hashlib.sha256(arrays).hexdigest()
        content.pop("sha256", None)
        new = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), content["arrays_sha256"]
    except (ValueError, RecursionError):
        return record, arrays
    for before, after in zip(old, new, strict=True):
        if isinstance(before, str) and len(before) == 64 and before.isascii():
            record = record.replace(before.encode(), after.encode())
    return record, arrays


# --- changes of bytes ---


def changed_bytes(raw: bytes, rng: Rng) -> bytes:
    """One to four changes: bits, bytes, numbers, pieces left out, doubled, swapped, cut off or added."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if not changed:
            break
        at, n = rng.randrange(len(changed)), rng.choice((1, 1, 2, 4, 8, 32))
        match rng.randrange(8):
            case 0:
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + n] = rng.randbytes(n)
            case 2:
                del changed[at : at + n]
            case 3:
                changed[at:at] = changed[max(at - n, 0) : at]
            case 4:
                changed = changed[: at if rng.random() < 0.3 else len(changed) - n]
            case 5:
                changed += rng.randbytes(n)
            case 6:
                changed[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)))
            case 7:
                changed[at : at + 1] = rng.choice(
                    (b'"', b"{", b"[", b"}", b"]", b",", b"-", b"9", b"\\", b"\xff", b"e")
                )
    return bytes(changed)


def changed_front(raw: bytes, rng: Rng) -> bytes:
    """The same in the header alone."""
    (length,) = struct.unpack("<Q", raw[:8])
    front, data = raw[: 8 + length], raw[8 + length :]
    if rng.random() < 0.3:
        length = rng.choice((0, 1, 7, length - 1, length + 1, len(raw), 2**31, 2**40, 2**63 - 1, 2**64 - 1))
        return struct.pack("<Q", length) + front[8:] + data
    if rng.random() < 0.5:
        return changed_bytes(front, rng) + data
    return with_header(changed_bytes(front[8:], rng), data)  # with the length that it has now


# --- changes of meaning ---

_VALUES: list[Callable[[Rng], Any]] = [
    lambda rng: rng.choice((0, 1, -1, 2, 3, 2**31, 2**63, 2**64, -(2**70), 10**9, 10**18, 10**400)),
    lambda rng: rng.randrange(-5, 50),
    lambda rng: rng.choice((0.0, -0.0, 0.5, 1.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"))),
    lambda rng: rng.choice((True, False, None)),
    lambda rng: rng.choice(("", "x", "euclidean", "zinb", "\ud800", "\x00", "1e5", "\N{PILE OF POO}", "y" * 2000)),
    lambda rng: rng.choice(([], {}, [[]], [None], [1, [2]], {"a": {}}, ["a", 1], {"": None}, [[1, 2], [3]])),
    lambda rng: [rng.choice((0, 1.5, "a", None))] * rng.choice((1, 8, 12, 500)),
]


def any_value(rng: Rng) -> Any:
    """A JSON value that is rarely the one that belongs there."""
    return rng.choice(_VALUES)(rng)


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON tree with a key or an index of it."""
    stack = [tree]
    while stack:
        held = stack.pop()
        for key, value in list(held.items() if isinstance(held, dict) else enumerate(held)):
            yield held, key
            if isinstance(value, (dict, list)):
                stack.append(value)


def changed_tree(tree: dict[str, Any], rng: Rng) -> bytes:
    """JSON of a tree (which is changed) with values replaced, removed, renamed, swapped, doubled or nested."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = [(held, key) for held, key in places(tree) if not isinstance(held, list) or rng.random() < 0.1]
        held, key = rng.choice(found)
        match rng.randrange(6):
            case 0 | 1 | 2:
                held[key] = any_value(rng)
            case 3:
                del held[key]
            case 4:
                other, its_key = rng.choice(found)
                if key in held if isinstance(held, dict) else key < len(held):
                    held[key] = json.loads(json.dumps(other[its_key])) if its_key in _keys(other) else None
            case 5:
                if isinstance(held, dict):
                    held[rng.choice(("sha256", "format", "evil", "__metadata__", "weights.x", f"{key}x"))] = held.pop(
                        key
                    )
    text = json.dumps(tree)
    if rng.random() < 0.1:  # a key twice
        at = rng.choice([match.start() for match in re.finditer(r'(?<=\{)"', text)] or [1])
        key, value = rng.choice(("format", "model", "config", "gain", "dtype")), json.dumps(any_value(rng))
        text = f'{text[:at]}"{key}": {value}, {text[at:]}'
    if rng.random() < 0.03:  # nested, around the depth at which Python gives up too
        depth = rng.choice((10, 70, rng.randrange(800, 1000), rng.randrange(900, 1000), 5_000, 100_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        nested = opening * depth + "1" + closing * depth
        at = rng.choice([match.end() for match in re.finditer(r'": ', text)] or [0])
        text = f"{text[:at]}{nested if rng.random() < 0.3 else nested + ', ' + json.dumps('z') + ': '}{text[at:]}"
    return text.encode(errors="surrogatepass" if rng.random() < 0.5 else "replace")


def _keys(held: Any) -> Any:
    return held if isinstance(held, dict) else range(len(held))


def changed_header(arrays: bytes, rng: Rng) -> bytes:
    """Entries of the safetensors header with other types, shapes, places and names."""
    header, data = header_of(arrays)
    if rng.random() < 0.3:
        return with_header(changed_tree(header, rng), data)
    for _ in range(rng.choice((1, 1, 2))):
        names = list(header)
        if not names:
            break
        name = rng.choice(names)
        entry = header[name] if isinstance(header[name], dict) else header.setdefault("x", {})
        match rng.randrange(8):
            case 0:
                entry["dtype"] = rng.choice(
                    ("F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "O", "")
                )
            case 1:
                entry["shape"] = [rng.choice((0, 1, 2, 3, 8, 12, 2**31, 2**63, -1)) for _ in range(rng.randrange(5))]
            case 2:
                entry["data_offsets"] = [rng.choice((0, 4, len(data), 2**40, 2**64 - 1, -1)) for _ in range(2)]
            case 3:
                header[rng.choice(("evil", "weights.evil", "__metadata__", rng.choice(names), "../model.pkl"))] = (
                    header.pop(name)
                )
            case 4:
                del header[name]
            case 5:
                other = rng.choice(names)
                if other in header:
                    header[name], header[other] = header[other], header[name]
            case 6:  # nothing, however large it says it is
                shape = [0, 10 ** rng.randrange(1, 18)]
                rng.shuffle(shape)
                header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}
            case 7:
                header["__metadata__"] = rng.choice(({}, {"a": "b"}, {"a": 1}, [], None, {"a": {"b": "c"}}))
    return with_header(header, data)


def changed_arrays(arrays: bytes, rng: Rng) -> bytes:
    """A sound safetensors file whose arrays have other shapes, types or values."""
    header, data = header_of(arrays)
    names = [name for name in header if name != "__metadata__"]
    chosen = {rng.choice(names) for _ in range(rng.choice((1, 1, 2)))}
    factor = rng.random() < 0.15 and rng.choice((0, 2, 3))  # of all lengths of one kind together
    length = rng.choice([n for name in names for n in header[name]["shape"]] or [1])
    entries, parts, end = {}, [], 0
    for name in names:
        start, stop = header[name]["data_offsets"]
        kind = {"F32": np.float32, "I64": np.int64}[header[name]["dtype"]]
        array = np.frombuffer(data[start:stop], kind).reshape(header[name]["shape"])
        if factor is not False:
            for axis, n in enumerate(array.shape):
                if n == length:
                    array = np.repeat(array, factor, axis=axis)
        elif name in chosen:
            array = _changed_array(array, rng)
        raw = array.tobytes()
        dtype = {"f4": "F32", "f8": "F64", "f2": "F16", "i8": "I64", "i4": "I32", "b1": "BOOL"}[array.dtype.str[1:]]
        entries[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + len(raw)]}
        parts.append(raw)
        end += len(raw)
    return with_header(entries, b"".join(parts))


def _changed_array(array: np.ndarray, rng: Rng) -> np.ndarray:
    match rng.randrange(8):
        case 0:
            return array.astype(rng.choice(("f8", "f2", "i8", "i4", "?")))
        case 1:
            return array.ravel() if rng.random() < 0.5 else array[None]
        case 2:
            return array.T
        case 3:
            return array[:0] if array.ndim else array
        case 4:
            return array[:-1] if array.ndim else array[None]
        case 5:
            return array.ravel()[0] if array.size else array
        case 6:
            return np.concatenate([array, array]) if array.ndim else array
        case _:
            changed = array.copy()
            if changed.size:
                value = rng.choice((np.nan, np.inf, -np.inf, -1, 1e38, 2**62, 0, 7))
                if changed.dtype == np.int64:
                    value = int(value) if np.isfinite(value) and abs(value) < 2**63 else -(2**63)
                changed.flat[rng.randrange(changed.size)] = value
            return changed


def something_else(record: bytes, arrays: bytes, rng: Rng) -> Files:
    """Files of another kind in place of one of them or of both."""
    other = rng.choice(
        (
            b"",
            b"\x00" * rng.randrange(64),
            b"PK\x03\x04" + rng.randbytes(40),
            pickle.dumps(Planted(), protocol=rng.randrange(6)),
            pickle.dumps({"format": 1, "model": Planted()}),
            b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + pickle.dumps(Planted()),
            with_header({}, b""),
            json.dumps(json.loads(record)).encode("utf-16"),
            b"[" * rng.choice((5, 990, 10**6)),
        )
    )
    which = rng.randrange(3)
    return other if which != 1 else record, other if which != 0 else arrays


# --- one execution ---

_EASY, _FULL = 0, 1  # which of the tiny models


def changed_files(models: list[Files], rng: Rng) -> tuple[str, Files]:
    """The kind of change, and the files after it."""
    record, arrays = models[_FULL if rng.random() < 0.08 else _EASY]
    drawn = rng.random()
    if drawn < 0.38:
        return "record, bytes", (changed_bytes(record, rng), arrays)
    if drawn < 0.50:
        return "arrays, bytes", (record, changed_bytes(arrays, rng))
    if drawn < 0.52:
        return "something else", something_else(record, arrays, rng)
    if drawn < 0.54:
        return "something else, hashes right", with_right_hashes(record, something_else(record, arrays, rng)[1])
    if drawn < 0.58:
        return "record, bytes, hashes right", with_right_hashes(changed_bytes(record, rng), arrays)
    if drawn < 0.77:
        return "header, bytes, hashes right", with_right_hashes(record, changed_front(arrays, rng))
    if drawn < 0.78:
        return "arrays, bytes, hashes right", with_right_hashes(record, changed_bytes(arrays, rng))
    if drawn < 0.88:
        return "header, meaning, hashes right", with_right_hashes(record, changed_header(arrays, rng))
    if drawn < 0.92:
        return "arrays, meaning, hashes right", with_right_hashes(record, changed_arrays(arrays, rng))
    tree = json.loads(record)
    if rng.random() < 0.7:  # the options and the names are the smaller part
        tree["model"].pop("run")
        tree["model"]["run"] = {"params": {}, "history": {"loss": [1.0, None]}}
    changed = changed_tree(tree, rng)
    if rng.random() < 0.1:
        arrays = changed_arrays(arrays, rng)
    return "record, meaning, hashes right", with_right_hashes(changed, arrays)


class Watch:
    """Notes what the interpreter is asked to do while it is armed (audit hooks stay until the process ends)."""

    def __init__(self) -> None:
        self.allowed: set[str] | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if (event == "open" and str(args[0]) not in self.allowed) or event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:200]}")

    @contextmanager
    def __call__(self, folder: Path) -> Iterator[None]:
        self.allowed, self.seen = {str(folder / name) for name in (store.RECORD, store.ARRAYS)}, []
        try:
            yield
        finally:
            self.allowed = None


class Failure(AssertionError):
    """The loader did what it must not."""


def load(folder: Path, watch: Watch) -> str:
    """What came of it: "loaded", or the message without what varies in it."""
    try:
        with watch(folder):
            sctag.ScTAG.load(folder)
        said = "loaded"
    except ValueError as error:
        said = str(error)
        if type(error) is not ValueError or not said.endswith("."):
            msg = f"no error with a message of ours: {error!r}"
            raise Failure(msg) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        msg = f"{type(error).__name__}: {error}"
        raise Failure(msg) from error
    if watch.seen or Planted.ran:
        msg = f"the loader was seen to do this: {watch.seen}, pickle run: {Planted.ran}"
        raise Failure(msg)
    return said


def _as_saved(files: Files, models: list[Files]) -> bool:
    return any(json.loads(files[0]) == json.loads(record) and files[1] == arrays for record, arrays in models)


def _kind_of(said: str) -> str:
    said = re.sub(r"\(.*\)|'[^']*'|\[.*\]|{.*}", "_", said.removeprefix("The model is damaged: "), flags=re.DOTALL)
    said = re.sub(r"(got|gain is|metric is|n_neighbors is|are not) .*", r"\1 _", said, flags=re.DOTALL)
    return re.sub(r"\d+", "9", said)[:70].split(". Save")[0]


def fuzz(
    executions: int,
    seed: int = 0,
    start: int = 0,
    *,
    limit_memory: bool = False,
    say: Callable[[str], None] | None = None,
) -> Counter[str]:
    """Run so many executions; raises :class:`Failure` with the number of the first that went wrong."""
    outcomes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    watch = Watch()
    memory = Path("/dev/shm")
    in_memory = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=in_memory) as name:
        models = tiny_models(Path(name))
        folder = Path(name) / "fuzzed"
        folder.mkdir()
        paths, now = [folder / store.RECORD, folder / store.ARRAYS], [None, None]
        (folder / "model.pkl").write_bytes(pickle.dumps(Planted()))  # nobody is to look at it
        for path, raw in zip(paths, models[_FULL], strict=True):
            path.write_bytes(raw)
        for _ in range(3):  # whatever torch and Python load on first use is loaded
            load_first = sctag.ScTAG.load(folder)
        assert load_first.is_trained_
        warnings.simplefilter("error")  # a warning would be about numbers that were let through
        if limit_memory:
            _limit_address_space()
        began, peak = time.perf_counter(), (0, 0)
        for number in range(start, start + executions):
            kind, files = changed_files(models, Rng(seed * 2**40 + number))
            for place, (path, raw) in enumerate(zip(paths, files, strict=True)):
                if now[place] != raw:
                    path.write_bytes(raw)
                    now[place] = raw
            watched = number % _SAMPLED == 0
            if watched:
                tracemalloc.start()
            try:
                said = load(folder, watch)
                if watched:
                    used, allowed = tracemalloc.get_traced_memory()[1], sum(map(len, files))
                    peak = max(peak, (used, allowed))
                    if used > BYTES_AT_LEAST + BYTES_PER_BYTE * allowed:
                        msg = f"{used} bytes allocated for files of {allowed}"
                        raise Failure(msg)
            except Failure as error:
                msg = f"execution {number} of seed {seed} ({kind}): {error}"
                raise Failure(msg) from error
            finally:
                if watched:
                    tracemalloc.stop()
            if said == "loaded" and "hashes right" not in kind and not _as_saved(files, models):
                msg = f"execution {number} of seed {seed} ({kind}): an altered model was loaded"
                raise Failure(msg)
            outcomes["loaded" if said == "loaded" else _kind_of(said)] += 1
            kinds[f"{kind}: {'loaded' if said == 'loaded' else 'refused'}"] += 1
            if say is not None and (number + 1 - start) % 50_000 == 0:
                say(f"{number + 1 - start} executions, {(number + 1 - start) / (time.perf_counter() - began):.0f}/s")
        seconds = time.perf_counter() - began
    if say is not None:
        for title, counted in {"by change": kinds, "by outcome": outcomes}.items():
            say(f"{title}:")
            for text, count in sorted(counted.items(), key=lambda pair: -pair[1]):
                say(f"  {count:>8}  {text}")
        say(f"largest allocation seen: {peak[0] / 1024:.0f} KiB, for files of {peak[1] / 1024:.0f} KiB")
        say(f"{executions} executions, {executions / seconds:.0f}/s, no failure")
    return outcomes


def _limit_address_space() -> None:
    import resource

    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    options = parser.parse_args()
    import scanpy as sc

    sc.settings.verbosity = 0
    warnings.simplefilter("ignore")  # of the libraries, while the models are made
    fuzz(options.executions, options.seed, options.start, limit_memory=True, say=_say)


if __name__ == "__main__":
    main()
