"""Fuzz the loader of saved models: whatever the two files hold, it loads or raises ValueError with a message.

``python tests/fuzz_store.py --executions 1000000 --seed 0`` takes about a quarter of an hour on one core. Each
execution changes the files of a tiny model and calls ``ScTAG.load``. Some changes leave the hashes wrong, as accidents
do; for the others the hashes are made right again, so that the checks behind them are reached. Watched throughout: the
kind of error, that what loads with its hashes left alone is what was saved, no file opened but the two, nothing
compiled, executed, started or unpickled, and (of a sample) the memory that Python allocates at its peak; as a script
also the address space. Execution ``i`` depends on the seed and ``i`` alone: ``--seed s --start i --executions 1``
repeats it.
"""

from __future__ import annotations

import argparse
import hashlib
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
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import safetensors.numpy as safetensors
from anndata import AnnData
from scipy import sparse

import sctag_tools as sctag
from sctag_tools.io.model_folder import ARRAYS, RECORD

# Python's objects of a JSON value, and the checks, are larger than the file by a factor that does not grow with it.
BYTES_PER_BYTE, BYTES_AT_LEAST = 64, 512 * 1024
ADDRESS_SPACE = 512 * 2**20  # that a whole campaign may add
SAMPLED = 200  # one of so many executions is watched by tracemalloc
FORBIDDEN = ("pickle.find_class", "exec", "compile", "subprocess.", "os.", "shutil.", "socket.", "ctypes.", "marshal.")


class Planted:
    """What would tell if a pickle were read."""

    ran = False

    def __reduce__(self):
        return exec, (f"import {__name__} as m; m.Planted.ran = True",)


class Failure(AssertionError):
    """The loader did what it must not."""


# --- the files that are changed ---


def tiny_cells():
    """12 cells of two donors with a representation and a ring for a graph."""
    rng = np.random.default_rng(0)
    adata = AnnData(rng.poisson(3, (12, 8)).astype(np.float32) + 1)
    adata.obs["donor"] = ["a", "b"] * 6
    adata.obsm["X_rep"] = rng.normal(size=(12, 3)).astype(np.float32)
    adata.obsp["ring"] = sparse.csr_matrix(np.roll(np.eye(12), 1, axis=1) + np.roll(np.eye(12), -1, axis=1))
    for name, params in {"sctag_neighbors": {}, "of_rep": {"use_rep": "X_rep"}}.items():
        adata.uns[name] = {"connectivities_key": "ring", "params": {"n_neighbors": 4, "metric": "euclidean", **params}}
    return adata


def tiny_models():
    """A plain model, which is changed most often, and one with all that a model can have."""
    plain = {"n_networks": 1, "n_hidden": 2, "n_latent": 1}
    full = {"n_networks": 2, "n_hidden": 3, "n_latent": 2, "n_hops": 2, "likelihood": "zinb", "graph_weight": 0.1}
    models = []
    for options in (plain, full | {"batch_key": "donor", "neighbors_key": "of_rep"}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*batches have fewer than", UserWarning)
            models.append(sctag.ScTAG(tiny_cells(), 2, **options))
        models[-1].train(pretrain_epochs=1, cluster_epochs=1, accelerator="cpu", progress_bar=False)
    return models


def with_right_hashes(record, arrays):
    """Both files as someone would write them who knows the format; unchanged if the record is no JSON object."""
    try:
        content = json.loads(record)
        old = content.pop("sha256", None), content.get("arrays_sha256")
        content["arrays_sha256"] = hashlib.sha256(arrays).hexdigest()
        new = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest(), content["arrays_sha256"]
    except (ValueError, RecursionError, TypeError, AttributeError):
        return record, arrays
    for before, after in zip(old, new, strict=True):
        if isinstance(before, str) and len(before) == 64 and before.isascii():
            record = record.replace(before.encode(), after.encode())
    return record, arrays


# --- changes ---


def changed_bytes(raw, rng):
    """One to four changes: bits, bytes, numbers, pieces left out, doubled, cut off or added."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at, n = rng.randrange(len(raw) + 1), rng.choice((1, 1, 2, 4, 8, 32))
        before, after = raw[:at], raw[at:]
        raw = rng.choice((
            before + bytes(byte ^ 1 << rng.randrange(8) for byte in after[:1]) + after[1:],
            before + rng.randbytes(n) + after[n:],
            before + after[n:],
            before + before[-n:] + after,
            before,
            raw[:-n],
            raw + rng.randbytes(n),
            before + struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))) + after[8:],
            before + rng.choice((b'"', b"{", b"[", b"}", b"]", b",", b"-", b"9", b"\\", b"\xff", b"e")) + after[1:],
        ))  # fmt: skip
    return raw


_VALUES = [
    (0, 1, -1, 2, 3, 7, 2**31, 2**63, 2**64, -(2**70), 10**9, 10**18, 10**400),
    (0.0, -0.0, 0.5, 1.5, 1e-300, 1e308, float("nan"), float("inf"), float("-inf"), True, False, None),
    ("", "x", "euclidean", "zinb", "\ud800", "\x00", "1e5", "\N{PILE OF POO}", "y" * 2000),
    ([], {}, [[]], [None], [1, [2]], {"a": {}}, ["a", 1], {"": None}, [[1, 2], [3]], {"a": "b"}, {"a": 1}),
    tuple([one] * n for one in (0, 1.5, "a", None) for n in (1, 8, 12, 500)),
    ("F32", "F64", "F16", "I64", "I32", "BOOL", "BF16", "U8", "F8_E4M3", "C64", "O"),
    ([0, 2**60], [2**63, 2**63], [-1], [0, 0], [0, 24], [0, 2**43], [2**64 - 1, 4], [3, 8], [12, 0]),
]


def places(tree):
    """Every container in a JSON tree with a key or an index of it."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def changed_tree(tree, rng):
    """JSON of a tree (which is changed) with values replaced, removed, renamed, copied, doubled or nested."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = [(held, key) for held, key in places(tree) if isinstance(held, dict) or rng.random() < 0.1]
        (held, key), (other, its_key) = rng.choice(found), rng.choice(found)
        match rng.randrange(6):
            case 0 | 1 | 2:
                held[key] = json.loads(json.dumps(rng.choice(rng.choice(_VALUES))))
            case 3:
                del held[key]
            case 4:
                held[key] = json.loads(json.dumps(other[its_key]))
            case 5 if isinstance(held, dict):
                held[rng.choice(("sha256", "format", "evil", "__metadata__", "state.x", f"{key}x"))] = held.pop(key)
    text = json.dumps(tree)
    at = rng.choice([match.end() for match in re.finditer(r'": |\{(?=")', text)] or [0])
    if text[at - 1 : at] == "{" and rng.random() < 0.5:
        text = f'{text[:at]}"{rng.choice(("format", "model", "dtype"))}": 7, {text[at:]}'
    elif rng.random() < 0.03:  # nested, around the depth at which Python gives up too
        depth = rng.choice((10, 70, rng.randrange(800, 1000), rng.randrange(900, 1000), 5_000, 100_000))
        opening, closing = rng.choice((("[", "]"), ('{"a":', "}")))
        text = f'{text[:at]}{opening * depth}1{closing * depth}, "z": {text[at:]}'
    return text.encode(errors="surrogatepass" if rng.random() < 0.5 else "replace")


def changed_header(arrays, rng):
    """Another header of a safetensors file: its bytes, its meaning, or its length."""
    (length,) = struct.unpack("<Q", arrays[:8])
    header, data = arrays[8 : 8 + length], arrays[8 + length :]
    changed = changed_tree(json.loads(header), rng) if rng.random() < 0.4 else changed_bytes(header, rng)
    lengths = (0, 1, 7, length, length - 1, length + 1, len(arrays), 2**31, 2**40, 2**64 - 1)
    return struct.pack("<Q", rng.choice(lengths) if rng.random() < 0.3 else len(changed)) + changed + data


def changed_arrays(arrays, rng):
    """A sound safetensors file whose arrays have other shapes, types or values."""
    held = safetensors.load(arrays)
    if rng.random() < 0.15:  # all lengths of one kind together
        length, factor = rng.choice([n for array in held.values() for n in array.shape]), rng.choice((0, 2, 3))
        for name, array in held.items():
            held[name] = array[np.ix_(*(np.repeat(np.arange(n), factor if n == length else 1) for n in array.shape))]
    for name in rng.sample(list(held), rng.choice((0, 1, 1, 2))):
        array, other_value = held[name], held[name].copy()
        values = (-1, 2**62, -(2**63), 0, 7) if array.dtype == np.int64 else (np.nan, np.inf, -np.inf, -1, 1e38, 0)
        other_value.flat[:1] = rng.choice(values)
        held[name] = rng.choice((
            array.astype(rng.choice(("f8", "f2", "i8", "i4", "?"))), array.ravel(), array[None], array.T, array[:0],
            array[:-1], array.ravel()[:1].sum(), np.concatenate([array, array]), other_value, other_value,
        ))  # fmt: skip
    return safetensors.save({name: np.ascontiguousarray(array) for name, array in held.items()})


def something_else(raw, rng):
    """Bytes of another kind."""
    return rng.choice((
        b"", b"\x00" * rng.randrange(64), b"PK\x03\x04" + rng.randbytes(40), struct.pack("<Q", 2) + b"{}",
        pickle.dumps(Planted(), protocol=rng.randrange(6)), pickle.dumps({"format": 2, "model": Planted()}),
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + pickle.dumps(Planted()),
        raw.decode("latin-1").encode("utf-16"), b"[" * rng.choice((5, 990, 10**6)),
    ))  # fmt: skip


def changed_meaning(record, rng):
    """The record with another meaning, mostly of the options and the names, which are the smaller part."""
    tree = json.loads(record)
    if rng.random() < 0.7:
        tree["model"]["run"] = {"params": {}, "history": {"loss": [1.0, None]}}
    return changed_tree(tree, rng)


# How often, which of the two files (0 the record, 1 the arrays), how, and how often with wrong hashes.
_CHANGES = [
    (40, 0, changed_bytes, 0.9), (12, 1, changed_bytes, 0.9), (5, 0, something_else, 1.0), (5, 1, something_else, 0.5),
    (25, 1, changed_header, 0.0), (4, 1, changed_arrays, 0.0), (9, 0, changed_meaning, 0.0),
]  # fmt: skip


def changed_files(models, rng):
    """What was done, whether the hashes are right, and the files after it."""
    files = list(models[rng.random() < 0.08])
    for _ in range(rng.choices((1, 2), (9, 1))[0]):
        _, which, change, wrong = rng.choices(_CHANGES, [weight for weight, *_ in _CHANGES])[0]
        if files[which] in models[0] + models[1]:  # only sound files can be changed in meaning
            files[which] = change(files[which], rng)
    right = rng.random() >= wrong
    return f"{change.__name__} of {which}", right, with_right_hashes(*files) if right else tuple(files)


# --- one execution ---


class Watch:
    """Notes what the interpreter is asked to do while it is armed (audit hooks stay until the process ends)."""

    def __init__(self):
        self.allowed, self.seen = None, []
        sys.addaudithook(self._hook)

    def _hook(self, event, args):
        if self.allowed is None:
            return
        if (event == "open" and str(args[0]) not in self.allowed) or event.startswith(FORBIDDEN):
            self.seen.append(f"{event} {str(args)[:200]}")

    @contextmanager
    def __call__(self, folder):
        self.allowed, self.seen = {str(folder / name) for name in (RECORD, ARRAYS)}, []
        try:
            yield
        finally:
            self.allowed = None


def load(folder, watch, max_bytes=None):
    """What came of it: "loaded", or the message. Fails if Python allocates more than ``max_bytes`` at once."""
    if max_bytes is not None:
        tracemalloc.start()
    said = "loaded"
    try:
        with watch(folder):
            sctag.ScTAG.load(folder)
    except Exception as error:
        said = str(error)
        if type(error) is not ValueError or not said.endswith("."):
            raise Failure(f"no error with a message of ours: {error!r}") from error  # noqa: EM102
    finally:
        used = tracemalloc.get_traced_memory()[1]  # 0 if it was not started
        tracemalloc.stop()
    if max_bytes is not None and used > max_bytes:
        raise Failure(f"{used} bytes allocated, where {max_bytes} are allowed for these files")  # noqa: EM102
    if watch.seen or Planted.ran:
        raise Failure(f"the loader was seen to do this: {watch.seen}, pickle run: {Planted.ran}")  # noqa: EM102
    return said


def execute(number, seed, folder, models, watch):
    """One execution; what came of it."""
    kind, right, files = changed_files(models, random.Random(seed * 2**40 + number))
    for name, raw in zip((RECORD, ARRAYS), files, strict=True):
        (folder / name).write_bytes(raw)
    allowed = BYTES_AT_LEAST + BYTES_PER_BYTE * sum(map(len, files))
    try:
        said = load(folder, watch, None if number % SAMPLED else allowed)
        saved = {(json.dumps(json.loads(record)), arrays) for record, arrays in models}
        if said == "loaded" and not right and (json.dumps(json.loads(files[0])), files[1]) not in saved:
            raise Failure("an altered model was loaded")  # noqa: EM101
    except Failure as error:
        raise Failure(f"execution {number} of seed {seed} ({kind}): {error}") from error  # noqa: EM102
    return re.sub(
        r"(got|degree is|metric is|neighbors is|format is|are not|\(|'|\d).*", r"\1 ...", said, flags=re.DOTALL
    )


def fuzz(executions, seed=0, start=0, *, limit_memory=False, say=lambda text: None):
    """Run so many executions; raises :class:`Failure` with the number of the first that went wrong."""
    outcomes, watch, began = Counter(), Watch(), time.perf_counter()
    with ExitStack() as stack:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory))) for _ in range(2)]
        for model, folder in zip(tiny_models(), folders, strict=True):
            model.save(folder)
        models = [tuple((folder / name).read_bytes() for name in (RECORD, ARRAYS)) for folder in folders]
        for folder in (*folders, *folders):  # whatever torch and Python load on first use is loaded
            sctag.ScTAG.load(folder)
        (folders[0] / "model.pkl").write_bytes(pickle.dumps(Planted()))  # nobody is to look at it
        if limit_memory:
            import resource

            used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error")  # a warning would be about numbers that were let through
        for number in range(start, start + executions):
            outcomes[execute(number, seed, folders[0], models, watch)] += 1
            if (number + 1 - start) % 50_000 == 0:
                say(f"{number + 1 - start} executions in {time.perf_counter() - began:.0f} s")
    say("\n".join(f"{count:>8}  {text}" for text, count in outcomes.most_common()))
    say(f"{executions} executions in {time.perf_counter() - began:.0f} s, no failure")
    return outcomes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in {"executions": 1_000_000, "seed": 0, "start": 0}.items():
        parser.add_argument(f"--{option}", type=int, default=default)
    warnings.simplefilter("ignore")  # of the libraries, while the models are made
    fuzz(**vars(parser.parse_args()), limit_memory=True, say=lambda text: print(text, flush=True))  # noqa: T201


if __name__ == "__main__":
    main()
