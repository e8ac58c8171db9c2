"""What a run makes once its result is safe: the folder of the model, the UMAP, and its picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from .._atomic import replacing
from ._files import write_result
from ._report import describe

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from anndata import AnnData


def make_extras(
    adata: AnnData, key: str, label_key: str | None, target: Path, save: Path | None, *, overwrite: bool
) -> None:
    """Make them, and say what was written. RuntimeError if one fails; the others are made all the same."""
    made, failed = [str(target)], []

    def attempt(what: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except Exception as error:  # noqa: BLE001 (whatever it is, the result is there)
            failed.append(f"{what} could not be made ({describe(error)})")
            return False
        return True

    picture = target.with_suffix(".png")
    if save is not None and attempt(f"the model in {save}", lambda: _save(adata, key, save, overwrite=overwrite)):
        made.append(f"model in {save}")
    if attempt("the UMAP", lambda: _add_umap(adata, key, target)) and attempt(
        f"the picture {picture}", lambda: _draw(adata, key, label_key, picture)
    ):
        made.insert(1, str(picture))
    typer.echo(f"wrote {', '.join(made)}")
    if failed:
        msg = f"{'; '.join(failed)}. The clusters are safe in {target}."
        raise RuntimeError(msg)


def _save(adata: AnnData, key: str, folder: Path, *, overwrite: bool) -> None:
    from .._model import ScTAG

    ScTAG.from_anndata(adata, key).save(folder, overwrite=overwrite)


def _add_umap(adata: AnnData, key: str, target: Path) -> None:
    from ..tl import umap

    umap(adata, key=key)
    write_result(adata, target)


def _draw(adata: AnnData, key: str, label_key: str | None, path: Path) -> None:
    import matplotlib.pyplot as plt

    from ..pl import embedding

    colors = [key] if label_key is None else [key, label_key]
    # a legend is as wide as its longest name, which the constrained layout takes into account
    figure, axes = plt.subplots(1, len(colors), figsize=(5.5 * len(colors), 4.5), squeeze=False, layout="constrained")
    for ax, color in zip(axes[0], colors, strict=True):
        embedding(adata, key=key, color=color, ax=ax, show=False, frameon=False)
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=150)
    plt.close(figure)
