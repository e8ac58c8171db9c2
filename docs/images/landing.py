"""The picture of the landing page: the bundled cells by cluster found and by label.

python docs/images/landing.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import scanpy as sc

import sctag_tools as sctag

adata = sctag.datasets.pbmc68k_reduced()
sctag.pp.build_graph(adata)
sctag.tl.sctag(adata)

figure, axes = plt.subplots(1, 2, figsize=(9, 5.6))
options = {"basis": "X_sctag_umap", "frameon": False, "show": False, "size": 40}
sctag.pl.embedding(adata, ax=axes[0], show=False, frameon=False, size=40, legend_loc="on data", title="clusters found")
sc.pl.embedding(adata, ax=axes[1], color="bulk_labels", title="labels of the authors", **options)
handles, labels = axes[1].get_legend_handles_labels()
axes[1].get_legend().remove()
figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False, fontsize=11)
figure.subplots_adjust(left=0.01, right=0.99, top=0.93, bottom=0.24, wspace=0.02)
figure.savefig(Path(__file__).with_name("landing.png"), dpi=130)
