"""The metric as a Space: arguments of `compute` as JSON in, figures out; the README's worked examples to start from.

`evaluate.utils.launch_gradio_widget` is not used: it calls parts of gradio that are gone since version 4, and offers
`predictions` and `references` only.
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
    """Config -> arguments of `compute` in the README's worked example."""
    found = {}
    for code in re.findall(r"```python\n(.*?)```", readme, flags=re.S):
        call = ast.parse(code).body[0].value
        config = call.func.value.args[1].value  # evaluate.load("eval/pvlg", config).compute(...)
        found[config] = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    return found


def score(config: str, arguments: str) -> dict:
    """Figures of a config for the arguments of `compute` as JSON; `{"error": one line}` for bad ones."""
    try:
        values = json.loads(arguments)
        if not isinstance(values, dict):
            return {"error": "give one JSON object: the arguments of compute by name"}
        return evaluate.load(str(HERE / "pvlg.py"), config).compute(**values)
    except (TypeError, ValueError) as error:
        return {"error": (str(error).splitlines() or ["not arguments of compute"])[0]}


def main() -> None:
    """Serves the page.

    Raises:
        SystemExit: gradio is not installed.
    """
    try:
        import gradio
    except ImportError:
        sys.exit("app.py needs gradio, which a Space brings along: pip install gradio")
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
