"""Bugs that the tests of evaluation must catch; see `planted`."""

from planted import bug

BUGS = [
    bug(
        "guidance is kept although its gain is not distinguishable",
        "evaluation/search.py",
        "return difference.value < 0 and difference.distinguishable_among(candidates) => return difference.value < 0",
        "evaluation/test_search.py::test_guidance_without_a_distinguishable_gain_is_not_kept",
    ),
    bug(
        "mirrored images reuse the features of plain ones",
        "sampling/image_features.py",
        'facts += ["mirrored"] if self.mirrored else [] => facts += []',
        "evaluation/test_memorisation.py::test_features_find_copies_too_and_are_computed_once",
    ),
    bug(
        "samples are compared with the training images",
        "evaluation/image_sets.py",
        '{"valid": split.validation, "train": split.train => {"valid": split.train, "train": split.validation',
        "evaluation/test_image_sets.py::test_the_parts_of_a_reference_are_those_of_a_run_with_the_same_seed",
    ),
    bug(
        "the jackknife of a comparison lacks its factor",
        "evaluation/measure.py",
        "math.sqrt((GROUPS - 1) * float(np.var(without))) => math.sqrt(float(np.var(without)))",
        "evaluation/test_compare.py::test_the_interval_of_a_difference_holds_the_truth_in_95_percent_of_cases",
    ),
    bug(
        "a record is compared by the features of another evaluation",
        "evaluation/measure.py",
        'or evaluation.record["generated"]["sha256"] != hash_file(path): => or False:',
        "evaluation/test_evaluate.py::test_features_of_another_evaluation_are_not_reused",
    ),
]
