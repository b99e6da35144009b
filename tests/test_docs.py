"""The pages of docs/ and CONTRIBUTING.md: every ```bash and ```python block runs, in order.

A page runs in a folder that holds the files it names. Small replacements stand for the large ones (`replacements` and
`MORE`): `synthetic-tiny` for `synthetic`, a random CLIP for ViT-B/16, six drawn people in the layout of CUHK-PEDES, a
local server for the Hub. Our programs run in this process, because each start of torch takes seconds; only the demo
server has its own process. The commands of README.md and of the pages with figures would take days, so only their
arguments are parsed.
"""

import argparse
import importlib
import importlib.util
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.launch import launch_command_parser
from transformers import CLIPTokenizer

from dataset_pvlg.inspection.export_images import export_images
from modeling_rogle import RogleConfig, RogleProcessor
from modeling_rogle.cli.main import main as rogle
from tests.helpers.checkpoint_layouts import WIDTH, irra_state
from tests.helpers.clip_folders import write_small_clip
from tests.helpers.hub_server import HubServer, hub_server, in_this_process
from tests.helpers.source_layouts import write_source
from train.small_model import SPECIAL_TOKENS
from train.train import main as train

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {name: ROOT / "docs" / f"{name}.md" for name in ("search", "research", "data")}
PAGES["contribute"] = ROOT / "CONTRIBUTING.md"
READ = ("README.md", *(f"docs/{page}.md" for page in ("photographs", "training", "scale", "results", "measurements")))
TRAINING = ["--epochs", "1", "--batch-size", "16", "--threads", "1", "--trackers", "none"]
MORE = {  # program -> flags behind the page's own
    "train/train.py": TRAINING,
    "eval/eval.py": ["--bootstrap", "20", "--failures", "2", "--threads", "1"],
}
OUTPUT_FLAGS = ("--out", "--save", "--save-map")
PROGRAMS = ("rogle", "python", "accelerate", "ruff", "pip", "pytest")
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEMO = """
import signal
from modeling_rogle.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
raise SystemExit(main())
"""


class AcceptedError(Exception):
    """A parser took the words; the program goes no further."""


def blocks(page: str) -> list[tuple[str, str]]:
    """(bash or python, text) of a page, in its order."""
    return BLOCK.findall(PAGES[page].read_text(encoding="utf-8"))


def commands(text: str) -> list[list[str]]:
    """Lines of a bash block as words."""
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


@pytest.fixture(scope="module")
def page_files(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: RogleConfig,
    tiny_processor: RogleProcessor,
    tiny_checkpoint: Path,
) -> Path:
    """The files that the pages name: a trained model, images with metadata, CUHK-PEDES, CLIP, a checkpoint of IRRA."""
    folder = tmp_path_factory.mktemp("docs")
    write_small_clip(folder / "clip", tiny_config, tiny_processor)  # at 384 x 128 a grid of 12 x 4
    shutil.copytree(tiny_checkpoint, folder / "tiny")
    recipe = yaml.safe_load((ROOT / "train" / "configs" / "vitb16.yaml").read_text())
    small = {"model": str(folder / "clip"), "mixed_precision": "no", "workers": 0}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(recipe | small))
    given = ["--dataset", "synthetic-tiny", "--model", str(folder / "tiny"), "--out", str(folder / "runs" / "small")]
    train([*given, *TRAINING])
    images = folder / "images"
    export_images("synthetic-tiny", "test", images)
    first, *_ = sorted(images.iterdir())
    first.rename(images / "person.jpg")
    named = [f"{path.name},c{n % 4}" for n, path in enumerate(sorted(images.iterdir()))]
    (images / "metadata.csv").write_text("\n".join(["file_name,camera", *named]))
    (folder / "queries.txt").write_text("A man in a green shirt.\nA woman with a white handbag.\n")
    write_source(folder / "CUHK-PEDES", "cuhk_pedes")
    words = sorted(set(tiny_processor.tokenizer.get_vocab()) - set(SPECIAL_TOKENS))  # CLIP's own order: these two last
    vocab = {word: number for number, word in enumerate([*words, *SPECIAL_TOKENS])}
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder / "clip-vit-base-patch16")
    table = {"base_model.token_embedding.weight": torch.randn(len(vocab), WIDTH)}
    torch.save(irra_state() | table, folder / "irra_best.pth")
    return folder


@pytest.fixture
def page_folder(page_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of these files for one page, in a folder that looks like the root of the repository."""
    folder = tmp_path / "rogle"
    shutil.copytree(page_files, folder)
    for name in ("train", "eval", "hub", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with hub_server() as found:
        in_this_process(found, monkeypatch)
        yield found


def replacements(folder: Path) -> dict[str, str]:
    return {
        "synthetic": "synthetic-tiny",
        "openai/clip-vit-base-patch16": str(folder / "clip"),
        "train/configs/vitb16.yaml": "tiny.yaml",
        "USER/rogle": "me/rogle",
    }


def run_command(words: list[str], folder: Path) -> None:
    """Runs a command of a page; its exit status must be 0 and its output files must exist."""
    words = [replacements(folder).get(word, word) for word in words]
    if words[:2] == ["rogle", "demo"]:
        status = run_demo(words[1:], folder)
    elif words[0] == "rogle":
        status = rogle(words[1:])
    elif "-m" not in words and (scripts := [word for word in words if word.endswith(".py")]):
        at, program = words.index(scripts[0]), Path(scripts[0])
        if words[0] == "accelerate":
            assert words[1:at] == ["launch", "--num_processes", "1"], "this process is one"
        given = words[at + 1 :]
        if str(program) == "train/train.py" and "tiny.yaml" not in given:
            given = ["--dataset", "synthetic-tiny", "--model", str(folder / "tiny"), *given]
        assert program.is_file()
        status = importlib.import_module(".".join(program.with_suffix("").parts)).main(
            [*given, *MORE.get(str(program), [])]
        )
        status = 0 if isinstance(status, dict) else status  # train returns its scores
    else:  # a tool that checks the repository
        words[:1] = [sys.executable] if words[0] == "python" else [sys.executable, "-m", words[0]]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        print(done.stdout, done.stderr)
        status = done.returncode
    assert not status, words
    for flag, value in zip(words, words[1:], strict=False):
        assert flag not in OUTPUT_FLAGS or Path(value).exists(), (flag, value)


def run_demo(words: list[str], folder: Path) -> int:
    """Starts the server on a free port, requests its page and interrupts it. Without Gradio: one line of refusal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", DEMO, *words, "--port", str(port)]
    with (folder / "demo.err").open("w+") as errors:
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            line = server.stdout.readline()
            if importlib.util.find_spec("gradio") is None:
                assert server.wait(60) == 2 and not line
                message = (folder / "demo.err").read_text()
                assert "Traceback" not in message
                assert message.splitlines()[-1] == "rogle demo: the demo needs Gradio: pip install 'rogle[demo]'"
                return 0
            assert re.fullmatch(rf"\d+ images at http://127\.0\.0\.1:{port}/ \(ctrl-c stops\)\n", line), line
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as page:
                assert page.status == 200 and '<meta property="og:title" content="Rogle" />' in page.read().decode()
            server.send_signal(signal.SIGINT)
            return server.wait(60)
        finally:
            server.kill()
            server.communicate()


def run_python(text: str, folder: Path, names: dict) -> None:
    for theirs, ours in replacements(folder).items():
        text = text.replace(f'"{theirs}"', f'"{ours}"')
    exec(compile(text, "a page's python block", "exec"), names)


def run_page(page: str, folder: Path) -> None:
    names: dict = {"__name__": "page"}
    for kind, text in blocks(page):
        if kind == "python":
            run_python(text, folder, names)
        else:
            for words in commands(text):
                run_command(words, folder)


@pytest.mark.slow
def test_readme(page_folder: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(page_folder / "images", page_folder / "runs" / "gallery")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names: dict = {"__name__": "page"}
    for kind, block in BLOCK.findall(text):
        if kind == "python":
            run_python(block, page_folder, names)
    assert len(capsys.readouterr().out.splitlines()) == 5 + 1 and len(names["gallery"]) > 5


@pytest.mark.slow
def test_search(page_folder: Path, capsys: pytest.CaptureFixture) -> None:
    for extra in ("onnx", "onnxruntime", "onnxscript", "faiss"):
        pytest.importorskip(extra)
    run_page("search", page_folder)
    printed = capsys.readouterr().out
    assert "largest difference from the model in onnxruntime: " in printed
    filtered, _ = json.JSONDecoder().raw_decode(printed, printed.index("{"))
    assert {result["metadata"]["camera"] for result in filtered["results"]} == {"c3"}
    assert re.search(r"^ *1 .* person\.jpg", printed, re.MULTILINE), "an image finds itself"
    assert "expected calibration error" in printed and "deleted 1 of" in printed
    from modeling_rogle.search.gallery import Gallery

    assert "person.jpg" not in Gallery.open("runs/people").paths


@pytest.mark.slow
def test_research(page_folder: Path, capsys: pytest.CaptureFixture) -> None:
    run_page("research", page_folder)
    printed = capsys.readouterr().out
    assert re.search(r"^66\.6\d* ", printed, re.MULTILINE), "of three queries the page's metric block finds two"
    assert json.loads((page_folder / "runs/cuhk/results.json").read_text())["results"]
    assert yaml.safe_load((page_folder / "runs/irra/recipe.yaml").read_text())["head"] == "implicit_relations"
    assert {"results.json", "results.csv", "results.md"} <= {
        path.name for path in (page_folder / "runs/eval").iterdir()
    }
    assert "(IRRA)" in printed and (page_folder / "runs/irra-theirs/processor_config.json").is_file()


@pytest.mark.slow
def test_data(page_folder: Path, hub: HubServer, capsys: pytest.CaptureFixture) -> None:
    run_page("data", page_folder)
    printed = capsys.readouterr().out
    assert "dry run: " in printed and re.search(r"^pushed \d", printed, re.MULTILINE)
    assert re.search(r"^(\d+) of \1 rows have their image again", printed, re.MULTILINE)
    pushed = hub.files("dataset", "me/pvlg")
    assert "README.md" in pushed and any(name.endswith(".parquet") for name in pushed)
    assert hub.private["dataset", "me/pvlg"], "of a source that may not be passed on"
    assert (page_folder / "runs/pvlg/build_report.json").is_file()


@pytest.mark.slow
def test_contribute(page_folder: Path, capsys: pytest.CaptureFixture) -> None:
    run_page("contribute", page_folder)
    printed = capsys.readouterr().out
    assert " passed" in printed and "dry run: " in printed
    assert {"model", "data", "metric", "demo"} <= {path.name for path in (page_folder / "runs/release").iterdir()}


@pytest.mark.parametrize("page", PAGES)
def test_no_command_stands_outside_the_blocks_that_are_run(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page)), "a block of another kind"
    known = {" ".join(words) for kind, block in blocks(page) if kind == "bash" for words in commands(block)}
    for inline in re.findall(r"`([^`\n]+)`", BLOCK.sub("", text)):
        if inline.split()[0] in PROGRAMS and len(inline.split()) > 2 and "COMMAND" not in inline:
            assert any(command.startswith(inline) for command in known), inline


def named_commands(page: str) -> list[tuple[str, bool]]:
    """What a page names of our programs, a line each, and whether it is whole: whether it stands in a bash block."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = [block for kind, block in BLOCK.findall(text) if kind == "bash"]
    found = [(step, True) for block in shell for step in re.split(r"(?<!\\)\n|&&", block)]
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    found += [(inline, False) for inline in re.findall(r"`([^`]+)`", prose)]
    ours = re.compile(r"(?:[A-Z_]+=\S+ )*((?:rogle \w|accelerate launch |python -m benchmarks|python \w+/\w+\.py).*)")
    lines = [(ours.fullmatch(" ".join(step.replace("\\\n", " ").split())), whole) for step, whole in found]
    return list(dict.fromkeys((line[1], whole) for line, whole in lines if line))


def ask_for_nothing(parser: argparse.ArgumentParser) -> None:
    for action in parser._actions:
        action.required = False
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                ask_for_nothing(each)
    for group in parser._mutually_exclusive_groups:
        group.required = False


@pytest.mark.parametrize(("page", "line", "whole"), [(page, *named) for page in READ for named in named_commands(page)])
def test_a_program_takes_the_words_of_the_pages(
    page: str, line: str, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read are also [what may be left out], {a|b} as a, numbers S and N as 0; prose may leave out what is needed."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: object) -> None:
        if not whole:
            ask_for_nothing(parser)
        parse(parser, *given)
        raise AcceptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.chdir(ROOT)
    line = re.sub(r"\{(\w+)\|[^}]*\}", r"\1", line.replace("[", "").replace("]", "").replace("...", ""))
    words = [{"S": "0", "N": "0"}.get(word, word) for word in shlex.split(line, comments=True)]
    if words[0] == "accelerate":
        with pytest.raises(AcceptedError):
            launch_command_parser().parse_args(words[2:])
    if words[0] == "rogle":
        main, words = rogle, words[1:]
    elif words[1] == "-m":
        main, words = importlib.import_module(words[2]).main, words[3:]
    elif programs := [n for n, word in enumerate(words) if word.endswith(".py")]:
        program = importlib.import_module(words[programs[0]].removesuffix(".py").replace("/", "."))
        assert Path(program.__file__) == ROOT / words[programs[0]]
        main, words = program.main, words[programs[0] + 1 :]
    else:
        assert not whole, "launches nothing"
        return
    with pytest.raises(AcceptedError):
        main(words)


def test_the_extras_that_the_pages_name_are_there() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for page in (*(ROOT / page for page in READ), *PAGES.values()):
        for name in re.findall(r"rogle\[(\w+)\]", page.read_text(encoding="utf-8")):
            assert name in extras, (page, name)


@pytest.mark.parametrize("page", PAGES)
def test_the_links_of_a_page_exist(page: str) -> None:
    text = PAGES[page].read_text(encoding="utf-8")
    for path in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (PAGES[page].parent / path).exists(), path
    for path in re.findall(r"`((?:modeling_rogle|dataset_pvlg|train|eval|hub|benchmarks|tests|docs)/[^` ]*)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_the_quickstart_notebook_runs_from_top_to_bottom(
    page_folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code cells as they are, in order; without runs/small/best, so that the one that trains a model runs too."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    book = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    assert book["nbformat"] == 4 and len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    names: dict = {"__name__": "notebook"}
    (page_folder / "docs").mkdir()
    shutil.rmtree(page_folder / "runs")
    monkeypatch.chdir(page_folder / "docs")  # where Jupyter starts
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            assert {"execution_count", "metadata", "outputs", "source"} <= set(cell)
            run_python("".join(cell["source"]), page_folder, names)
    printed = capsys.readouterr().out
    assert Path.cwd() == page_folder and "asked for person" in printed and "runs/quickstart/model/best: " in printed
    assert len(names["matches"]) == 3 and torch.allclose(names["image"].norm(dim=-1), torch.ones(1))
    for image in ("row.png", "results.png", "map.png"):
        assert (page_folder / "runs" / "quickstart" / image).stat().st_size > 1000


def test_the_notebooks_outputs_come_from_a_run() -> None:
    """Outputs are those of one run in order, without an error; text that they show is what a cell prints."""
    book = json.loads((DOCS / "quickstart.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    assert counts in ([None] * len(code), list(range(1, len(code) + 1)))
    assert all(output["output_type"] != "error" for cell in code for output in cell["outputs"])
    assert counts[0] or not any(cell["outputs"] for cell in code)
