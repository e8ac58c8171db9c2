"""From latents to clusters: partitions, co-association tree, number of clusters, confidence; arrays only."""
