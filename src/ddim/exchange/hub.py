"""Share a run on the Hugging Face Hub: upload its checkpoint and a card, without folders of this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ddim.data.remote import ADVICE, Repository, connect_to_hub, parse_repository
from ddim.errors import UserError, explain_errors
from ddim.exchange.card import CARD, SAMPLES, hide_folders, write_card
from ddim.files import write_atomic
from ddim.recipe.codec import dump, write_recipe
from ddim.recipe.recipe import Recipe
from ddim.runs.checkpoint import MANIFEST, write_checkpoint
from ddim.runs.names import FILES, PUBLISHED
from ddim.sampling.labels import default_label
from ddim.sampling.pipeline import LoadedRun, list_conditions, load
from ddim.sampling.searched import FILE as SEARCHED, read_searched

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Pushed:
    """The result of `push`.

    Attributes:
        verdict: what was uploaded, where, and who can see it.
        name: the name of the run, hub:OWNER/NAME.
        files: the size of each file in bytes, keyed by its name.
        notes: sentences about what was left out or may surprise.
        url: the address of its page; "" if nothing was uploaded.
        commit: the commit that holds the files.
        private: whether only the owner can see the repository.
    """

    verdict: str
    name: str
    files: Mapping[str, int]
    notes: Sequence[str] = ()
    url: str = ""
    commit: str = ""
    private: bool = True

    def __str__(self) -> str:
        files = [f"  {name:<20} {size / 1e6:>12,.3f} MB" for name, size in self.files.items()]
        use = [f"next: ddim sample {self.name}"] if self.url else []
        return "\n".join([self.verdict, *(f"note: {note}" for note in self.notes), *files, *use])


def push(
    run: str | Path, repository: str, *, weights: str = "ema", dry_run: bool = False, own: Sequence[Any] = ()
) -> Pushed:
    """Upload a run to the Hugging Face Hub.

    Others can then sample it as hub:OWNER/NAME. The repository gets, in one commit, the weights as
    safetensors, the recipe, a model card with the numbers of the run, a sheet of samples, and what sampling
    needs. Training images, your code and the folders of your machine stay here. A new repository is private;
    its settings on the Hub make it public. If the run is pushed again, the metadata at the top of README.md
    stays as it is, such as the licence.

    Pushing needs the extra `hub` and a token with the right to write: `hf auth login`, or the variable
    HF_TOKEN.

    Args:
        run: a run folder, RUN/best, or a checkpoint folder.
        repository: its name, OWNER/NAME, or OWNER/NAME@BRANCH.
        weights: "ema", "raw", or the name of another average.
        dry_run: list what would be uploaded, without a connection.
        own: the components of the run that you wrote, as for `ddim.load`.

    Returns:
        The name of the run on the Hub, its address and commit, the sizes of its files, and notes.

    Raises:
        UserError: if the name is not OWNER/NAME, `huggingface_hub` is not installed, there is no token, the
            Hub refuses, or the repository holds a model that was not pushed by ddim.

    Example:
        >>> ddim.push("runs/photos-fast-1", "ada/photos")
        >>> ddim.sample("hub:ada/photos", n=16)

    Commands:
        ddim push runs/photos-fast-1 ada/photos --dry-run
        ddim push runs/photos-fast-1 ada/photos --weights picked
    """
    to = parse_repository(repository)
    loaded = load(run, weights, own=own, device="cpu")
    fault = f"{to} cannot be uploaded"
    with TemporaryDirectory(prefix="ddim-") as temporary:
        folder = Path(temporary)
        recipe, notes = write_published(loaded, folder)
        write_atomic(folder / "recipe.yaml", write_recipe(recipe).encode())
        api = None if dry_run else connect_to_hub("pushing a run")
        # A network that always saw a class cannot sample without one.
        needed = not recipe.data.unconditional and default_label(recipe) is None
        use = {"format": "hub", "repository": str(to), "needs_label": needed}
        card = ""
        if api is not None:
            with explain_errors(fault, ADVICE):
                card = _open_repository(api, to)
        write_card(loaded, folder, use, card)
        files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        size = f"{len(files)} files, {sum(files.values()) / 1e6:,.1f} MB"
        if api is None:
            return Pushed(f"Nothing was uploaded; without dry_run, {to} gets {size}.", str(to), files, notes)
        at = loaded.checkpoint
        with explain_errors(fault, ADVICE):
            done = api.upload_folder(
                repo_id=to.id,
                folder_path=folder,
                revision=to.revision,
                commit_message=f"Upload a run of ddim after {at.state.step:,} steps, {at.weights} weights",
                # Files of an earlier push that this run does not have, such as the vectors of its images.
                delete_patterns=[*FILES, SAMPLES],
            )
            private = bool(api.model_info(to.id).private)
        url = f"{api.endpoint}/{to.id}"
        seen = "only you can see it, until you make it public in its settings" if private else "public"
        return Pushed(f"{to} has {size}: {url} ({seen}).", str(to), files, notes, url, done.oid, private)


def _open_repository(api: Any, to: Repository) -> str:  # noqa: ANN401 (an `HfApi`)
    """Create the repository if it does not exist, and return its model card; "" without one.

    Raises:
        UserError: if the repository holds a model that is not a published run.
    """
    api.whoami()
    api.create_repo(to.id, private=True, exist_ok=True)
    found = api.get_paths_info(to.id, [WEIGHTS, MANIFEST, CARD], revision=to.revision)
    names = {entry.path for entry in found}
    if WEIGHTS in names and MANIFEST not in names:
        raise UserError(f"{to.id} holds another model, whose {WEIGHTS} would be lost: give a new name")
    if CARD not in names:
        return ""
    return Path(api.hf_hub_download(to.id, CARD, revision=to.revision)).read_text(encoding="utf-8")


def write_published(run: LoadedRun, folder: Path) -> tuple[Recipe, list[str]]:
    """Write the checkpoint of a run into a new folder, with a manifest, as it is published.

    With equal guidance, samples of the checkpoint are bit-identical to samples of the run with these weights.
    The folders of the images and of the vectors are left out of the recipe, and so is saved guidance by
    another checkpoint.

    Returns:
        The published recipe, and sentences about what was left out or may surprise.
    """
    at, recipe, notes = run.checkpoint, hide_folders(run.recipe), []
    tensors = {"model": run.model.state_dict(), **list_conditions(run.clusters, run.vectors)}
    if run.vectors is not None:
        notes.append("the vectors of all images, also of the validation images, are part of the run")
    searched = read_searched(at.run)
    # A guide is another checkpoint, which is not published.
    searched["guidance"] = [entry for entry in searched["guidance"] if not entry["guide"]]
    # What only a resume needs is left out.
    state = replace(at.state, not_finite=0, best=None, sums={}, stopped=None, due=False)
    documents = {
        "state": state.to_json(),
        "recipe": dump(recipe),
        PUBLISHED: {"weights": at.weights, "checkpoint": at.sha256},
    }
    documents |= {Path(SEARCHED).stem: searched} if any(searched.values()) else {}
    write_checkpoint(folder, state.step, tensors, documents)
    return recipe, notes
