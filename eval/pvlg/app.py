"""The metric as a Hugging Face Space: takes the arguments of `compute` as JSON and shows the figures.

The README's worked examples are filled in. `evaluate.utils.launch_gradio_widget` is not used: it calls parts of gradio
that version 4 removed, and offers `predictions` and `references` only.
"""

import ast
import json
import re
import sys
from pathlib import Path

import evaluate

HERE = Path(__file__).resolve().parent
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", flags=re.S)


def examples(readme: str) -> dict[str, dict]:
    """Arguments of `compute` in the README's worked examples, by config."""
    arguments = {}
    for code in re.findall(r"```python\n(.*?)```", readme, flags=re.S):
        call = ast.parse(code).body[0].value
        config = call.func.value.args[1].value  # evaluate.load("eval/pvlg", config).compute(...)
        arguments[config] = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return arguments


def score(config: str, arguments: str) -> dict:
    """Computes the figures of one config.

    Args:
        config: `global`, `local` or `joint`.
        arguments: the arguments of `compute` as a JSON object.

    Returns:
        The figures, or `{"error": one line}` if the arguments are wrong.
    """
    try:
        values = json.loads(arguments)
        if not isinstance(values, dict):
            return {"error": "expected one JSON object with the arguments of compute"}
        return evaluate.load(str(HERE / "pvlg.py"), config).compute(**values)
    except (TypeError, ValueError, LookupError, OverflowError, RecursionError) as error:
        return {"error": (str(error).splitlines() or ["wrong arguments"])[0]}


def main() -> None:
    """Serves the web page.

    Raises:
        SystemExit: gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        sys.exit("app.py needs gradio, which is preinstalled in a Space: pip install gradio")
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    texts = {config: json.dumps(arguments) for config, arguments in examples(readme).items()}
    first = next(iter(texts))
    with gradio.Blocks(title="P-VLG retrieval metrics") as page:
        config = gradio.Dropdown(list(texts), value=first, label="config")
        arguments = gradio.Code(texts[first], language="json", label="arguments of compute")
        button, figures = gradio.Button("compute"), gradio.JSON(label="figures")
        config.change(texts.get, config, arguments)
        button.click(score, [config, arguments], figures)
        gradio.Markdown(FRONT_MATTER.sub("", readme))
    page.launch()


if __name__ == "__main__":
    main()
