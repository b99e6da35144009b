"""python hub/endpoint.py FOLDER [--requests N] [--threads N]

Runs the `handler.py` of a release with the calling convention of the Inference Endpoints toolkit. Measures the time
from the JSON of a request to the JSON of its answer, for texts, images, both, and a batch.
"""

import argparse
import base64
import importlib.util
import io
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

MODULE = "handler.EndpointHandler"  # the module name in the toolkit
TEXT = "A woman in a red coat and black trousers. She carries a brown bag over her left shoulder."
BATCH = 16


def load_handler(folder: str | Path) -> Callable[[Any], Any]:
    """Creates the handler as the toolkit does: it adds the folder to the path and imports `handler.py`.

    Args:
        folder: the release.

    Returns:
        The `EndpointHandler` of the folder.

    Raises:
        FileNotFoundError: the folder has no handler.py.
    """
    file = Path(folder) / "handler.py"
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    sys.dont_write_bytecode = True  # checksums.py refuses a __pycache__ in a release
    spec = importlib.util.spec_from_file_location(MODULE, file)
    sys.path.insert(0, str(folder))
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(folder))


def respond(handler: Callable[[Any], Any], body: bytes, content_type: str = "application/json") -> tuple[int, bytes]:
    """Answers a request like the web service of the toolkit: status and body; every exception is a 400 with JSON."""
    try:
        if content_type.startswith("image/"):
            data = {"inputs": Image.open(io.BytesIO(body)).convert("RGB")}
        else:
            data = json.loads(body)
        if "inputs" not in data:
            raise ValueError("Body needs to provide a inputs key")
        return 200, json.dumps(handler(data)).encode()
    except Exception as error:  # as in the toolkit
        return 400, json.dumps({"error": str(error)}).encode()


def measure(handler: Callable[[Any], Any], requests: int) -> dict[str, tuple[float, float]]:
    """Measures the time of a request. The first three requests of each kind are not counted.

    Args:
        handler: result of [`load_handler`].
        requests: counted requests of each kind.

    Returns:
        Kind -> median and 95th percentile in milliseconds.

    Raises:
        ValueError: the handler returned an error.
    """
    pixels = np.random.default_rng(0).integers(0, 255, (384, 128, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=90)
    image = base64.b64encode(stream.getvalue()).decode()
    kinds = {
        "one text": {"inputs": {"text": TEXT}},
        "one image": {"inputs": {"images": image}},
        "text and image": {"inputs": {"text": TEXT, "images": image}},
        f"{BATCH} texts and {BATCH} images": {"inputs": {"text": [TEXT] * BATCH, "images": [image] * BATCH}},
    }
    times = {}
    for kind, request in kinds.items():
        body, seconds = json.dumps(request).encode(), []
        for number in range(requests + 3):
            start = time.perf_counter()
            status, answer = respond(handler, body)
            if number >= 3:
                seconds.append(time.perf_counter() - start)
            if status != 200 or answer.startswith(b'{"error"'):
                raise ValueError(f"{kind}: {answer.decode()}")
        times[kind] = tuple(1000 * np.percentile(seconds, [50, 95]))
    return times


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table. Returns 0, or 2 after an error in the input, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="hub/endpoint.py", description="Measure the endpoint handler of a release.")
    parser.add_argument("folder", metavar="FOLDER", help="folder `model` that hub/release.py --out wrote")
    parser.add_argument("--requests", type=int, default=50, metavar="N", help="requests of each kind (default: 50)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: chosen by torch)")
    args = parser.parse_args(argv)
    try:
        if args.requests < 1:
            raise ValueError(f"--requests: must be at least 1, not {args.requests}")
        if args.threads:
            torch.set_num_threads(args.threads)
        handler = load_handler(args.folder)
        print(
            f"| request ({torch.get_num_threads()} threads, {handler.device}) | median ms | 95 % ms |\n|---|---:|---:|"
        )
        for kind, (median, p95) in measure(handler, args.requests).items():
            print(f"| {kind} | {median:.1f} | {p95:.1f} |")
    except (ValueError, OSError, ImportError) as error:
        print(f"hub/endpoint.py: {(str(error).splitlines() or [type(error).__name__])[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
