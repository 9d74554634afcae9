"""Share a run on the Hugging Face Hub: upload its checkpoint with a model card."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ddim.data.remote import ADVICE, Repository, connect_to_hub, explain_errors, parse_repository
from ddim.errors import UserError
from ddim.exchange.model_card import CARD, SAMPLES, make_card
from ddim.exchange.publishing import write_published
from ddim.files import write_atomic
from ddim.recipe.codec import write_recipe
from ddim.runs.checkpoint import MANIFEST
from ddim.runs.names import FILES
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import LoadedRun, load

if TYPE_CHECKING:
    from huggingface_hub import HfApi

WEIGHTS = "model.safetensors"
_HEAD = "---\nlibrary_name: ddim\n{task}tags:\n- ddim\n- diffusion\n---\n"
_TASK = "pipeline_tag: unconditional-image-generation\n"

_USE = """
import ddim

images = ddim.sample("hub:{name}", n=16{label})  # (16, C, H, W) in [0, 1]; image k depends on seed k alone
ddim.sheet(images)
"""


@dataclass(frozen=True)
class Push:
    """The result of `push_run`.

    Attributes:
        name: the name of the run, hub:OWNER/NAME.
        url: the address of its page.
        commit: the commit that holds the files.
        private: whether only the owner can see the repository.
        files: the size of each file in bytes, keyed by its name.
        notes: sentences about what was left out or may surprise.
    """

    name: str
    url: str
    commit: str
    private: bool
    files: Mapping[str, int]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        seen = "only you can see it, until you make it public in its settings" if self.private else "public"
        return "\n".join([f"{self.name}: {self.url} ({seen})", *self.notes])


def push_run(
    run: str | Path,
    to: str,
    *,
    weights: str = "ema",
    own: Sequence[Any] = (),
    announce: Callable[[Mapping[str, int]], object] = lambda files: None,
) -> Push:
    """Upload a run to the Hugging Face Hub, in one commit; `load` and `sample` then take hub:OWNER/NAME.

    The repository gets the weights as a safetensors file, the recipe, a model card, a sheet of samples and
    the other files for sampling. Training images, your code and the folders of your machine are not uploaded.
    A new repository is private. Pushing needs the extra `hub`, and a token with the right to write.

    Args:
        run: a run folder, RUN/best, or a checkpoint folder.
        to: the repository, as OWNER/NAME.
        weights: "ema", "raw" or another average, as for `ddim.load`.
        own: the components of the run that you wrote, as for `ddim.load`.
        announce: called with the size of each file in bytes, keyed by its name, before the upload.

    Returns:
        The address and the commit of the uploaded files, their sizes, and notes.

    Raises:
        UserError: if `to` is not OWNER/NAME, `huggingface_hub` is not installed, there is no token, the Hub
            refuses, or the repository holds a model that was not pushed by ddim.

    Example:
        >>> ddim.push("runs/photos-fast-1", "ada/photos")
        >>> ddim.sample("hub:ada/photos", n=16)
    """
    repository = parse_repository(to)
    if repository.revision:
        raise UserError(f"a run is pushed to the main branch: give OWNER/NAME without @, got {to!r}")
    api = connect_to_hub("pushing a run")
    with explain_errors(f"{to} cannot be uploaded", ADVICE):
        api.whoami()
    loaded = load(run, weights, own=own, device="cpu")
    with TemporaryDirectory(prefix="ddim-") as temporary:
        folder = Path(temporary)
        published = write_published(loaded, folder)
        write_atomic(folder / "recipe.yaml", write_recipe(published.recipe).encode())
        card, images = make_card(loaded, *_describe_use(loaded, repository))
        for file, png in images.items():
            write_atomic(folder / file, png)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        announce(sizes | {CARD: len(card.encode())})
        with explain_errors(f"{to} cannot be uploaded", ADVICE):
            api.create_repo(repository.id, private=True, exist_ok=True)
            head = _find_head(api, repository) or _HEAD.format(task="" if loaded.model.classes else _TASK)
            write_atomic(folder / CARD, (head + card).encode())
            commit, private = _upload(api, repository, folder, loaded)
    files = sizes | {CARD: len((head + card).encode())}
    return Push(str(repository), f"{api.endpoint}/{repository.id}", commit, private, files, published.notes)


def _upload(api: HfApi, repository: Repository, folder: Path, run: LoadedRun) -> tuple[str, bool]:
    """Upload the files of a folder, and return the commit and whether the repository is private.

    Files of an earlier push that this run does not have, such as the vectors of its images, are removed.
    """
    message = (
        f"Upload a run of ddim after {run.checkpoint.state.step:,} steps, {run.checkpoint.weights} weights"
    )
    done = api.upload_folder(
        repo_id=repository.id,
        folder_path=folder,
        commit_message=message,
        delete_patterns=[*FILES, SAMPLES],
    )
    return done.oid, bool(api.model_info(repository.id).private)


def _find_head(api: HfApi, repository: Repository) -> str | None:
    """Return the header of the model card in a repository, with its licence and tags; None without a header.

    Raises:
        UserError: if the repository holds a model that is not a published run.
    """
    found = api.get_paths_info(repository.id, [WEIGHTS, MANIFEST, CARD])
    names = {entry.path for entry in found}
    if WEIGHTS in names and MANIFEST not in names:
        raise UserError(
            f"{repository.id} holds another model, whose {WEIGHTS} would be lost: give a new name"
        )
    if CARD not in names:
        return None
    text = Path(api.hf_hub_download(repository.id, CARD)).read_text(encoding="utf-8", errors="replace")
    head = re.match(r"---\r?\n.*?\n---\r?\n", text, re.DOTALL)
    return head[0] if head else None


def _describe_use(run: LoadedRun, repository: Repository) -> tuple[list[str], list[tuple[str, str]]]:
    about = (
        f"This is a run of ddim. {WEIGHTS} holds its {run.checkpoint.weights} weights, and recipe.yaml its "
        f"recipe. {MANIFEST} has the SHA-256 of every file that sampling needs."
    )
    # A network that always saw a class cannot sample without one.
    needed = not run.recipe.data.unconditional and default_label(run.recipe) is None
    return [about], [
        ("sh", f"ddim sample {repository} -n 16{' --label all' if needed else ''}"),
        ("python", _USE.format(name=repository.id, label=', label="all"' if needed else "")),
    ]
