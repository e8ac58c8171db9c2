"""Run notebooks from a fresh kernel and write them back with their outputs.

python docs/notebooks/execute.py                # all
python docs/notebooks/execute.py quickstart
"""

import argparse
import re
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def run(path: Path, *, timeout: float | None = None) -> nbformat.NotebookNode:
    """The notebook with the outputs of a fresh kernel."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=timeout, resources={"metadata": {"path": str(HERE)}}
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
        if "outputs" in cell:
            cell.outputs = [
                output for output in cell.outputs if _is_shown(output)
            ]
    return notebook


def _is_shown(output: nbformat.NotebookNode) -> bool:
    """Not progress bars, which Jupyter removes too, nor bare figure objects."""
    if output.output_type == "stream":
        return output.name != "stderr"
    data = output.get("data", {})
    if "application/vnd.jupyter.widget-view+json" in data:
        return False
    return "image/png" in data or not re.match(
        r"(array\()?\[?<(Axes|Figure)", data.get("text/plain", "")
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", help="without .ipynb; all by default"
    )
    options = parser.parse_args()
    for path in [HERE / f"{name}.ipynb" for name in options.names] or sorted(
        HERE.glob("*.ipynb")
    ):
        start = time.perf_counter()
        nbformat.write(run(path), path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
