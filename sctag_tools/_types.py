"""Option sets, for signatures and for the checks at run time."""

from typing import Literal

Accelerator = Literal["auto", "cpu", "gpu", "cuda", "mps"]
Preset = Literal["default", "reference", "paper"]
Metric = Literal["euclidean", "cosine", "correlation", "manhattan"]
Likelihood = Literal["multinomial", "zinb"]
Precision = Literal["32-true", "bf16-mixed"]
