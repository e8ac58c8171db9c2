"""Everything that reads an AnnData: counts, genes, graph, batches."""
