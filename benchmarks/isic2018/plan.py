"""Which methods the study compares, and which runs each stage needs."""

from dataclasses import replace
from typing import Any

from .engine import Method, Run

SAMPLER = Method()
SPMIX = Method(mixer="spmix", p=1.0)
SOFT = replace(SPMIX, normalize="soft_threshold")
CLEAN = replace(SOFT, floor=0.6, alpha=1.0)
UNIFORM = replace(SPMIX, saliency="uniform")

# The papers' own, on pixels: fine-grained saliency of the whole image, and the authors' pairing.
FINE_GRAINED = replace(SPMIX, saliency="fine_grained", saliency_first=True)
PAPERS = replace(FINE_GRAINED, tail_fraction=0.0, pairing="balanced")

# With the settings that are published for them.
BASELINES = {
    "cross_entropy": Method(tail_fraction=0.0),
    "class_balanced": Method(tail_fraction=1.0),
    "sampler": SAMPLER,
    "sampler_mixup": replace(SAMPLER, mixer="mixup", beta=0.4),
    "sampler_mixup_02": replace(SAMPLER, mixer="mixup", beta=0.2),
    "sampler_mixup_1": replace(SAMPLER, mixer="mixup", beta=1.0),
    "sampler_cutmix": replace(SAMPLER, mixer="cutmix", beta=1.0),
    "sampler_remix": replace(SAMPLER, mixer="remix", beta=1.0),
    "balanced_mixup": Method(tail_fraction=0.0, mixer="balanced_mixup", beta=0.2),
    "cmo": Method(tail_fraction=0.0, mixer="cmo", beta=1.0),
    "ldam_drw": Method(tail_fraction=0.0, loss="ldam_drw"),
    "logit_adjusted": Method(tail_fraction=0.0, loss="logit_adjusted"),
    "sampler_logit_adjusted": replace(SAMPLER, loss="logit_adjusted"),
    "mixup_logit_adjusted": replace(SAMPLER, mixer="mixup", beta=0.4, loss="logit_adjusted"),
    "cutmix_logit_adjusted": replace(SAMPLER, mixer="cutmix", loss="logit_adjusted"),
}

GUIDANCE = {
    "spmix_border": SPMIX,
    "spmix_spectral": replace(SPMIX, saliency="spectral_residual"),
    "papers": PAPERS,
    "spmix_fine_grained": FINE_GRAINED,
    "spmix_uniform": UNIFORM,
    "spmix_uniform_065": replace(UNIFORM, alpha=0.65),
    "spmix_random": replace(SPMIX, saliency="random"),
    "spmix_masks": replace(SPMIX, saliency="masks"),
    "spmix_grad_cam": replace(SPMIX, saliency="grad_cam"),
    "spmix_border_soft": SOFT,
    "spmix_border_prior": replace(SPMIX, saliency_first=True, center_prior=0.3),
}

ABLATIONS = {
    **{f"p_{p}": replace(SPMIX, p=p) for p in (0.25, 0.5, 0.75)},
    "tail_only": replace(SPMIX, mixed_classes="tail"),
    "pairing_authors_code": replace(SPMIX, tail_fraction=0.0, pairing="balanced"),
    "pairing_any": replace(SPMIX, pairing="any"),
    "target_ratio": replace(SPMIX, target="ratio"),
    "alpha_1": replace(SPMIX, alpha=1.0),
    "floor_0_alpha_1": replace(SPMIX, floor=0.0, alpha=1.0),
    "floor_07": replace(SPMIX, floor=0.7),
    "saliency_before_crop": replace(SPMIX, saliency_first=True),
    "patch_8": replace(SPMIX, patch_size=8),
    "tail_fraction_025": replace(SPMIX, tail_fraction=0.25),
    "tail_fraction_075": replace(SPMIX, tail_fraction=0.75),
    "gamma_05": replace(SPMIX, gamma=0.5),
    "less_at_the_end": replace(SPMIX, mixed_epochs=2 / 3),
    "spmix_logit_adjusted": replace(SPMIX, loss="logit_adjusted"),
}

# Beyond the paper: what might make guidance pay.
IDEAS = {
    "ratio_soft": replace(SOFT, target="ratio"),
    "clean_lesion": CLEAN,
    "clean_lesion_03": replace(CLEAN, floor=0.3),
    "clean_lesion_any": replace(CLEAN, pairing="any"),
    "spmix_soft_any": replace(SOFT, pairing="any"),
    "random_strength": replace(SOFT, floor=0.0, alpha=1.0, random_strength=True),
    "half_coarse": replace(SPMIX, p=0.5, patch_size=8),
    "similar_skin": replace(SPMIX, match="skin"),
    "similar_size": replace(SPMIX, match="size"),
    "two_backgrounds": replace(SPMIX, backgrounds=2),
}

# For backgrounds that mislead: a partner of any class, and its whole background.
EXCHANGE = replace(SOFT, floor=0.0, alpha=1.0, pairing="any")
MASKS = replace(EXCHANGE, saliency="masks")
ANY_UNIFORM = replace(UNIFORM, alpha=0.65, pairing="any")

EXCHANGES = {
    "remix_half": replace(BASELINES["sampler_remix"], share=0.5),
    "uniform_any": ANY_UNIFORM,
    "uniform_any_half": replace(ANY_UNIFORM, p=0.5),
    "exchange": EXCHANGE,
    "exchange_half": replace(EXCHANGE, p=0.5),
    "exchange_masks": MASKS,
    "exchange_pixels": replace(EXCHANGE, blur=1 / 16),
    "exchange_random": replace(EXCHANGE, random_strength=True),
    "exchange_soft_half": replace(EXCHANGE, soft_half=True),
    "exchange_classifier_last": replace(EXCHANGE, classifier_last=True),
    "exchange_cam": replace(EXCHANGE, cam_epochs=4),
    "exchange_centred": replace(EXCHANGE, center_prior=0.3),
    "exchange_centred_coarse": replace(EXCHANGE, center_prior=0.3, patch_size=8),
    "exchange_centred_hard": replace(EXCHANGE, center_prior=0.3, hard=True),
    "exchange_middle": replace(EXCHANGE, saliency="middle", center_prior=0.3),
    "exchange_masks_hard": replace(MASKS, hard=True),
    "papers_logit_adjusted": replace(PAPERS, loss="logit_adjusted"),
}

METHODS = {**BASELINES, **GUIDANCE, **ABLATIONS, **IDEAS, **EXCHANGES}

# The final comparison, SPMix first: see PRIMARY.md.
FINAL = ["spmix_border_soft", "sampler", "sampler_remix", "spmix_uniform"]

# The second comparison, likewise.
SECOND = ["p_0.5", *FINAL[1:]]

CHOOSING_FOLDS = ("0", "1", "2")
FINAL_FOLDS = ("3", "4", "test")
SECOND_FOLDS = FINAL_FOLDS[:2]

# The comparisons on backgrounds, see PRIMARY.md. First what they are chosen from, then what was
# chosen by its rule.
TRAPPED = [
    "sampler",
    "exchange",
    "exchange_masks",
    "sampler_remix",
    "uniform_any",
    "exchange_half",
    "exchange_pixels",
    "exchange_soft_half",
    "exchange_classifier_last",
    "p_0.5",
    "exchange_random",
    "remix_half",
    "uniform_any_half",
    "exchange_cam",
    "exchange_centred",
    "exchange_centred_coarse",
    "exchange_centred_hard",
    "exchange_masks_hard",
]
CHOSEN, CEILING, REMIX, ANY = "exchange", "exchange_masks", "sampler_remix", "uniform_any_half"
CONFIRMED = [CHOSEN, "sampler", REMIX, ANY, CEILING]
ELSEWHERE = [CHOSEN, "sampler", REMIX, CEILING]
CONTROLS = [CHOSEN, "remix_half", "uniform_any_half", "papers_logit_adjusted"]
# A second form, written down after the first was confirmed; it is compared with the same others.
CENTRED = "exchange_centred"
# A control of the second form: its prior without the contrast.
MIDDLE = "exchange_middle"
CLINICS = ("vidir_modern", "rosendahl")
RHOS = (0.25, 0.6, 0.9)

# Minutes a run on one core, for the budget.
MINUTES = {"lite0": 6.0, "small": 2.0}


def _runs(
    stage: str,
    names: list[str],
    folds: tuple[str, ...],
    seeds: range,
    model: str = "lite0",
    **artefacts: Any,
) -> list[Run]:
    # Seed by seed and fold by fold, so that an unfinished stage has all methods alike.
    return [
        Run(stage, name, METHODS[name], fold, seed, model, **artefacts)
        for seed in seeds
        for fold in folds
        for name in names
    ]


def _at(rho: float) -> list[Run]:
    """Try other strengths of the ties, each in a stage's name of its own."""
    return _runs(f"rho_{rho}", ["sampler", CHOSEN], ("0",), range(1), traps="casts", rho=rho)


def _beside(runs: list[Run], stage: str, arm: str) -> list[Run]:
    """Run another form of the exchange wherever the first was, beside all that was run there."""
    firsts = [run for run in runs if run.arm == CHOSEN]
    return [replace(run, stage=stage, arm=arm, method=METHODS[arm]) for run in firsts] + runs


_FINAL_RUNS = _runs("final", FINAL, FINAL_FOLDS, range(5))
_BACKGROUNDS = {
    "confirm": _runs("confirm", CONFIRMED, SECOND_FOLDS, range(5), traps="objects"),
    "clinic": _runs("clinic", ELSEWHERE, CLINICS, range(5)),
    "same": _runs("same", CONTROLS, SECOND_FOLDS, range(5)),
}
_SECONDS = {
    f"{stage}_second": _beside(runs, f"{stage}_second", CENTRED)
    for stage, runs in _BACKGROUNDS.items()
}

STAGES = {
    "choose": _runs(
        "choose",
        [
            "sampler",
            "sampler_mixup",
            "sampler_cutmix",
            "sampler_remix",
            "spmix_border",
            "spmix_border_soft",
            "p_0.5",
            "patch_8",
            "half_coarse",
            "spmix_uniform",
            "spmix_uniform_065",
            "spmix_masks",
            "ratio_soft",
            "clean_lesion",
            "clean_lesion_03",
            "clean_lesion_any",
        ],
        CHOOSING_FOLDS,
        range(1),
    ),
    # One run each, which decides nothing alone: what was not pursued further, the other baselines
    # and what the library's defaults and the papers' own setting rest on.
    "single": _runs(
        "single",
        [
            "target_ratio",
            "two_backgrounds",
            "similar_skin",
            "random_strength",
            "spmix_soft_any",
            "spmix_logit_adjusted",
            "sampler_logit_adjusted",
            "papers",
            "spmix_spectral",
            "cross_entropy",
            "class_balanced",
            "spmix_random",
            "spmix_fine_grained",
            "balanced_mixup",
            "tail_only",
            "ldam_drw",
            "logit_adjusted",
            "cmo",
            "mixup_logit_adjusted",
            "cutmix_logit_adjusted",
            "spmix_grad_cam",
            "sampler_mixup_02",
            "sampler_mixup_1",
            "pairing_authors_code",
            "pairing_any",
            "p_0.75",
            "p_0.25",
            "alpha_1",
            "floor_0_alpha_1",
            "floor_07",
            "saliency_before_crop",
            "spmix_border_prior",
            "tail_fraction_025",
            "tail_fraction_075",
            "gamma_05",
            "less_at_the_end",
            "similar_size",
        ],
        CHOOSING_FOLDS[:1],
        range(1),
    )
    + _runs("single", ["spmix_border"], CHOOSING_FOLDS[:1], range(1, 2)),
    "final": _FINAL_RUNS,
    "second": _runs("second", SECOND[:1], SECOND_FOLDS, range(5))
    + [run for run in _FINAL_RUNS if run.arm in SECOND and run.fold in SECOND_FOLDS],
    # Whether a network of a third of the cost would do for choosing: it points another way.
    "small": _runs(
        "small", ["sampler", "spmix_border", "spmix_uniform"], CHOOSING_FOLDS, range(1), "small"
    ),
    "traps": _runs("traps", TRAPPED, CHOOSING_FOLDS, range(1), traps="casts"),
    **{f"rho_{rho}": _at(rho) for rho in RHOS},
    **_BACKGROUNDS,
    **_SECONDS,
    "confirm_middle": _beside(_SECONDS["confirm_second"], "confirm_middle", MIDDLE),
    # Trains nothing: what "was it mixed" tells of the class.
    "cue": _runs("cue", ["tail_only", "spmix_border", "p_0.5"], ("0",), range(1), "small"),
}
