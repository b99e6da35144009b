"""Every entry point that takes a query, called in the same way: a query in, the answer out, as (image, score) pairs."""

import json
from collections.abc import Callable

from modeling_rogle import Gallery
from modeling_rogle.display.demo import run_search
from modeling_rogle.inference.onnx_encoder import OnnxEncoder
from modeling_rogle.release.space.app import Search
from tests.input_faults.entry_points import Outcome, World, command, recorded

Answer = list[tuple[str, float]]


def rounded(pairs: list[tuple[str, float]]) -> Answer:
    return [(name, round(score, 5)) for name, score in pairs]


def cli_search(world: World, query: str, outcome: Outcome) -> Answer:
    options = ("--index", world.index, "--model", world.checkpoint, "--json")
    text = command(outcome, "search", query, *options)
    return [] if outcome.failed else rounded([(item["path"], item["score"]) for item in json.loads(text)["results"]])


def gallery(world: World, query: str, outcome: Outcome) -> Answer:
    with recorded(outcome):
        matches = Gallery.open(world.index, world.model, world.processor).search(query)
        return rounded([(match.path, match.score) for match in matches])
    return []


def onnx(world: World, query: str, outcome: Outcome) -> Answer:
    with recorded(outcome):
        matches = Gallery.open(world.index, encoder=OnnxEncoder(world.onnx)).search(query)
        return rounded([(match.path, match.score) for match in matches])
    return []


def pipeline(world: World, query: str, outcome: Outcome) -> Answer:
    with recorded(outcome):
        results = world.pipeline(query, candidates=world.candidates)
        return rounded([(str(item["index"]), item["score"]) for item in results])
    return []


def endpoint(world: World, query: str, outcome: Outcome) -> Answer:
    answer = world.handler({"inputs": {"text": [query]}})
    outcome.failed = "error" in answer
    outcome.messages += [answer["error"]] if outcome.failed else []
    return [] if outcome.failed else rounded([(str(n), x) for n, x in enumerate(answer["text_embeds"][0])])


def space(world: World, query: str, outcome: Outcome) -> Answer:
    search = Search.__new__(Search)  # the Space without its download
    search.pipeline, search.candidates = world.pipeline, world.candidates
    search.rows = [{"file_name": str(n), "caption": ""} for n in range(len(world.candidates))]
    with recorded(outcome):
        return rounded([(result.file, result.score) for result in search(query)])
    return []


def demo(world: World, query: str, outcome: Outcome) -> Answer:
    opened = Gallery.open(world.index, world.model, world.processor)
    matches, message = run_search(opened, query, None, "", 10)
    outcome.failed, outcome.messages = matches is None, [message] if message else []
    return [] if matches is None else rounded([(match.path, match.score) for match in matches])


QUERY_ENTRY_POINTS: dict[str, Callable[[World, str, Outcome], Answer]] = {
    "rogle search": cli_search,
    "Gallery.search": gallery,
    "ONNX": onnx,
    "pipeline": pipeline,
    "endpoint": endpoint,
    "Space": space,
    "demo": demo,
}
