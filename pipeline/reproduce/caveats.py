"""Sentences on how the figures differ from the paper's, made from the facts."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.decoder import LAYERS, WIDTH
from pipeline.reproduce.markdown import span
from pipeline.reproduce.run_experiment import Result

PROTOCOL_CAVEATS = {
    "released": "Protocol of the released code: images of 5 bits with noise of one step added, which caps PSNR near "
    "40.9 dB; CelebA is tested on its validation split.",
    "standard": "Protocol: images of 8 bits, the data set's test split. The released code's, which the paper's "
    "figures are likely to be of, quantises to 5 bits and adds noise of one step: absolute values of the two cannot be "
    "compared, the order of models can.",
}
TABLE_CAVEATS = {
    1: "noise-blind: sigma uniform in 0 to 55; an input of FFDNet, unknown to the others.",
    2: "The paper's SSIM is that of its released code, with a window of 3 that takes columns for channels and a data "
    "range of 2: much higher than the usual one. docs/how-to/reproduce.md says more.",
    3: "The result is the network's output inside the box and the input outside. The three other models are not built "
    "here.",
}


def caveats_of(config: ReproduceConfig, results: Sequence[Result]) -> list[str]:
    """Caveats of a table: budget and recipe, data, protocol, statistics."""
    done = [result for result in results if result.error is None]
    if not done:
        return ["Every experiment failed."]
    seeds = f"{len(config.seeds)} seeds: the intervals are over test images and seeds, and too narrow for few seeds."
    if len(config.seeds) == 1:
        seeds = f"One seed ({config.seeds[0]}): the intervals are over the test images alone, not over trainings."
    return [
        *budget_caveats(config, done),
        *data_caveats(config, done),
        PROTOCOL_CAVEATS[config.protocol],
        *([TABLE_CAVEATS[config.table or 1]] if config.table != 1 or "noise-blind" in config.chosen_tasks else []),
        f'{seeds} "Ours uncertain": the difference of two neighbours in the order, image by image, may be 0 (95 %).',
    ]


def budget_caveats(config: ReproduceConfig, done: Sequence[Result]) -> list[str]:
    first, trained, budget = done[0].experiment, done[0].trained, Budget.parse(config.budget)
    device = f"trained in {trained['precision']} on {'a GPU' if trained['device'] == 'cuda' else 'a processor'}"
    if budget.is_full:
        return [f"Trained by the paper's schedule, alike for all models; {device}."]
    if budget.minutes:
        clock = "processor time" if first.config.budget.budget_clock == "processor" else "time"
        length = f"{budget.minutes:g} min of {clock} and saw {span([r.trained['images'] for r in done])} images"
    else:
        length = f"{budget.images:,} images"
    batch = first.config.optimization.global_batch_size
    rates = {r.experiment.model: f"{r.experiment.config.optimization.lr:g}" for r in done}
    return [
        f"Each network was trained for {length}. The paper's schedule takes at least 90 epochs, on CelebA some 15 "
        "million images. A short budget shows what learns quickly, which need not be what is best in the end.",
        f"One recipe for all: Adam, batches of {batch}, a cosine rate after a warm-up, an EMA of the weights; highest "
        f"rates {', '.join(f'{model} {lr}' for model, lr in rates.items())}. IRAE is initialised as the identity, the "
        "others as linear maps of each pixel. It is neither the paper's recipe nor that of the other models' authors; "
        f"{device}.",
        "Images/s are of training, by the clock of the budget.",
    ]


def data_caveats(config: ReproduceConfig, done: Sequence[Result]) -> list[str]:
    found = []
    for dataset in dict.fromkeys(result.experiment.dataset for result in done):
        result = next(r for r in done if r.experiment.dataset == dataset)
        experiment, metrics, source = result.experiment, result.metrics, result.experiment.source
        size = paper.TABLE_3_IMAGE_SIZE if config.table == 3 else paper.IMAGE_SIZE.get(source)
        train = _beside(experiment.train_images, paper.TRAIN_IMAGES.get(source), "training images")
        test = _beside(metrics["images"], paper.TEST_IMAGES.get(source), f"images of the {metrics['split']} split")
        text = f"{dataset}: {train}, evaluated on {test}, {_beside(metrics['image_size'], size, 'px')}"
        has_figures = paper.figure(config.table or 1, source, experiment.label, "irae")
        found.append(text + ("." if has_figures else "; the paper has no figures for it."))
    if config.table == 2:
        found.append("The paper does not say which data set its JPEG figures are of; they stand beside each one here.")
    return found


def _beside(ours: int, theirs: int | None, unit: str) -> str:
    """Our number, and the paper's where it differs."""
    return f"{ours:,} {unit}" + (f" (the paper: {theirs:,})" if theirs not in (None, ours) else "")


def claim_caveats(config: ReproduceConfig, results: Sequence[Result]) -> list[str]:
    """Caveats of the claim."""
    done = [result for result in results if result.error is None]
    if not done:
        return ["Every experiment failed."]
    layers = [layer for result in done for layer in result.metrics["layers"]]
    decoded = [layer for layer in layers if "decoder_images" in layer]
    return [
        "A decoder's error is an upper bound on what was lost: a larger decoder, or a longer training, may recover "
        "more. IRAE shows how loose it is: what seems lost by the decoder is there by its exact inverse. "
        "More than 100 % of the noise: the decoder is still worse than one that gives the clean image.",
        f"Each decoder: {LAYERS} convolutions of 3x3, {WIDTH} channels, and a linear path, "
        f"{span([layer['decoder_parameters'] for layer in decoded])} parameters (the first layer fits the features), "
        f"trained on {span([layer['decoder_images'] for layer in decoded])} images.",
        "The bottleneck is not all that a network passes on: DnCNN adds its input to its output, a U-Net leads skip "
        "connections around. A size of 1 or more means that the layer has room for all of the input.",
        "Noise known: a lower bound (Barber & Agakov 2003) on the information about the noise, I(input; features | "
        "clean image), by a normal distribution about the decoder's result, in nats per number of the image. It is a "
        "bound because the entropy of the noise is known; that of photographs is not. Gain: the same against a "
        "predictor that is independent of the features; no bound. For an exact inverse both are limited by float32.",
        "Most of the input's information is noise, which a restoration is there to remove: a perfect one that gives "
        "the clean image leaves 100 % of the noise's energy and 0 nats. That a network lost it is no fault by itself, "
        "and that IRAE keeps it, hidden in small differences of its output, is no proof that it restores better.",
        "The outputs are taken as the networks give them, float32 and not clamped. Rounded to the 8 bits of an image "
        "file, what was hidden there may be gone: the row on 8 bits.",
        f"One data set ({done[0].experiment.dataset}), one noise level, one seed; {len(layers[0]['mse']):,} test "
        f"images, over which the intervals are; budget {config.budget}, {span([r.trained['images'] for r in done])} "
        "images a network.",
    ]
