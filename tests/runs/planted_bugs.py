"""Bugs that the tests of runs must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "a checkpoint is loaded without comparing hashes",
        "runs/checkpoint.py",
        "    if hashlib.sha256(content).hexdigest() != manifest.files[name]:\n =>     if not content:\n",
        "runs/test_checkpoint.py::test_damage_is_named_and_the_checkpoint_is_set_aside",
        "runs/test_checkpoint.py::test_reading_finds_damage_by_itself",
    ),
    bug(
        "the best checkpoint is removed with the old ones",
        "runs/checkpoint.py",
        "        if path != kept: =>         if path:",
        "runs/test_checkpoint.py::test_the_newest_and_the_best_checkpoints_are_kept",
    ),
    bug(
        "a recipe file can run code",
        "recipe/codec.py",
        "yaml.load(Path(path).read_bytes().decode(), yaml.BaseLoader) => yaml.unsafe_load(Path(path).read_bytes())",
        "recipe/test_recipe.py::test_hostile_and_broken_files_are_refused_in_one_sentence",
    ),
    bug(
        "the default EMA weights are loaded for every profile",
        "sampling/pipeline.py",
        "{'default' if weights == 'ema' else weights} => default",
        "sampling/test_generate.py::test_every_average_of_a_run_can_be_loaded_by_its_name",
    ),
    bug(
        "files are not flushed before they are renamed",
        "files.py",
        "            file.flush()\n            os.fsync(file.fileno())\n =>             file.flush()\n",
        "test_files.py::test_a_failed_write_leaves_the_old_file_and_nothing_else",
    ),
    bug(
        "the NFE of guidance counts one of its two evaluations",
        "sampling/generate.py",
        "sum(counter.evaluations for counter in counters) => counters[0].evaluations",
        "sampling/test_guidance.py::test_guidance_needs_two_evaluations_and_guidance_zero_is_the_sample_of_no_class",
    ),
]
