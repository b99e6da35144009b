"""Fixtures shared by all tests: no network, temporary caches, and one tiny model that is created here."""

import os
import tempfile

# Set before any library reads them. The caches are temporary, so that no data set of the machine's user is read.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # also for child processes: results depend on the number of threads
_CACHE = tempfile.TemporaryDirectory(prefix="rogle-tests-")
os.environ["HF_HOME"] = _CACHE.name
os.environ["HF_DATASETS_CACHE"] = os.path.join(_CACHE.name, "datasets")
os.environ["MPLBACKEND"] = "Agg"

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from transformers import CLIPImageProcessorPil  # noqa: E402

from benchmarks.common import forks  # noqa: E402, F401  tests kill forked children too
from modeling_rogle import RogleConfig, RogleModel, RogleProcessor  # noqa: E402
from train.small_model import train_tokenizer  # noqa: E402

CAPTIONS = (
    "A man wears a red jacket and black pants. His shoes are white.",
    "The woman has long brown hair. She carries a blue bag over her left shoulder.",
    "A man in a green shirt is walking. He wears grey shorts and black sandals.",
)


@pytest.fixture(scope="session")
def tiny_processor() -> RogleProcessor:
    """A processor for images of 32 x 16 px and 64 tokens, with a tokenizer trained on three captions."""
    images = CLIPImageProcessorPil(size={"height": 32, "width": 16}, do_center_crop=False)
    return RogleProcessor(images, train_tokenizer(CAPTIONS * 20, max_length=64))


@pytest.fixture(scope="session")
def tiny_config(tiny_processor: RogleProcessor) -> RogleConfig:
    """A configuration with hidden size 32, 2 layers and patches of 8 px on a 4 x 2 grid."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = tiny_processor.tokenizer
    return RogleConfig(
        image_size=[32, 16],
        projection_dim=32,
        vision_config={**tower, "image_size": 32, "patch_size": 8, "projection_dim": 32},
        text_config={
            **tower,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "projection_dim": 32,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )


@pytest.fixture
def tiny_model(tiny_config: RogleConfig) -> RogleModel:
    """A random model in evaluation mode; each test gets a new one with the same weights."""
    torch.manual_seed(0)
    return RogleModel(RogleConfig.from_dict(tiny_config.to_dict())).eval()


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: RogleConfig, tiny_processor: RogleProcessor
) -> Path:
    """A folder with a random RogleModel and its processor."""
    folder = tmp_path_factory.mktemp("tiny") / "rogle"
    torch.manual_seed(0)
    RogleModel(RogleConfig.from_dict(tiny_config.to_dict())).save_pretrained(folder)
    tiny_processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of small real data that ROGLE_TEST_DATA names; its tests are skipped if it is not set."""
    folder = os.environ.get("ROGLE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ROGLE_TEST_DATA does not name a folder")
    return Path(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models are faster on one thread, and equal bits need an equal number of threads. Runs change the number."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)  # fixtures of the next module run before its first test
