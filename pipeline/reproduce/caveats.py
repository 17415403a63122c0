"""What must be known to read a table: sentences made from the facts."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.markdown import span
from pipeline.reproduce.run_experiment import Result


def caveats_of(config: ReproduceConfig, results: Sequence[Result]) -> list[str]:
    """A sentence or two for each thing that sets the figures apart from the paper's."""
    done = [result for result in results if result.error is None]
    if not done:
        return ["Every cell failed."]
    return [
        *budget_caveats(config, done),
        *data_caveats(config, done),
        *protocol_caveats(config),
        *statistics_caveats(config, done),
    ]


def budget_caveats(config: ReproduceConfig, done: Sequence[Result]) -> list[str]:
    """How long was trained, and by which recipe."""
    trained = done[0].trained
    device = "a GPU" if trained["device"] == "cuda" else "a processor"
    where = f"trained in {trained['precision']} on {device}"
    budget = Budget.parse(config.budget)
    if budget.is_full:
        return [f"Trained by the paper's schedule, alike for all systems; {where}."]
    images = [result.trained["images"] for result in done]
    clock = "processor time" if done[0].cell.config.budget_clock == "processor" else "time"
    what = f"{budget.minutes:g} min of {clock}" if budget.minutes else f"{budget.images:,} images"
    trained_for = f"Each network was trained for {what}" + (f" and saw {span(images)} images" if budget.minutes else "")
    rates = ", ".join(f"{r.cell.config.system} {r.cell.config.lr:g}" for r in _first_of_each_system(done))
    return [
        f"{trained_for}. The paper's schedule "
        "takes at least 90 epochs, on CelebA some 15 million images. A short budget shows what learns quickly, which "
        "need not be what is best in the end.",
        f"One recipe for all: Adam, batches of {done[0].cell.config.global_batch_size}, a cosine rate after a warm-up, "
        f"averaged weights; highest rates {rates}. IRAE begins as the identity, the others as linear maps of each "
        f"pixel. It is neither the paper's recipe nor that of the other systems' authors; {where}.",
        "Images/s are of training, by the clock of the budget.",
    ]


def _first_of_each_system(done: Sequence[Result]) -> list[Result]:
    firsts: dict[str, Result] = {}
    for result in done:
        firsts.setdefault(result.cell.config.system, result)
    return list(firsts.values())


def data_caveats(config: ReproduceConfig, done: Sequence[Result]) -> list[str]:
    """Which images, beside those of the paper."""
    found = []
    for dataset in dict.fromkeys(result.cell.dataset for result in done):
        result = next(r for r in done if r.cell.dataset == dataset)
        metrics, source = result.metrics, result.cell.source
        size = metrics["image_size"]
        text = f"{dataset}: {result.cell.train_images:,} training images"
        text += _of(result.cell.train_images, paper.TRAIN_IMAGES.get(source))
        text += f", evaluated on {metrics['images']:,} of the {metrics['split']} split"
        text += _of(metrics["images"], paper.TEST_IMAGES.get(source))
        theirs = paper.TABLE_3_IMAGE_SIZE if config.table == 3 else paper.IMAGE_SIZE.get(source)
        text += f", {size} px" + (f" (the paper: {theirs})" if theirs not in (None, size) else "")
        if paper.figure(config.table or 1, source, result.cell.label, "irae") is None:
            text += "; the paper has no figures for it"
        found.append(text + ".")
    if config.table == 2:
        found.append("The paper does not say which data set its JPEG figures are of; they stand beside each one here.")
    return found


def _of(count: int, official: int | None) -> str:
    return f" (the paper: {official:,})" if official not in (None, count) else ""


def protocol_caveats(config: ReproduceConfig) -> list[str]:
    """What is measured."""
    if config.protocol == "released":
        found = [
            "Protocol of the released code: images of 5 bits with noise of one step added, which caps PSNR near 40.9 "
            "dB; CelebA is tested on its validation split."
        ]
    else:
        found = [
            "Protocol: images of 8 bits, the data set's test split. The released code's, which the paper's figures are "
            "likely to be of, quantises to 5 bits and adds noise of one step: absolute values of the two cannot be "
            "compared, the order of systems can."
        ]
    if config.table == 1 and "noise-blind" in config.chosen_tasks:
        found.append("noise-blind: sigma uniform in 0 to 55; FFDNet is told each image's sigma, the others are not.")
    if config.table == 2:
        found.append(
            "The paper's SSIM is that of its released code, with a window of 3 that takes columns for channels and a "
            "data range of 2: much higher than the usual one. docs/how-to/reproduce.md says more."
        )
    if config.table == 3:
        found.append(
            "The result is the network's output inside the box and the input outside. The three other systems are not "
            "built here."
        )
    return found


def statistics_caveats(config: ReproduceConfig, done: Sequence[Result]) -> list[str]:
    """What the intervals mean."""
    if len(config.seeds) == 1:
        text = f"One seed ({config.seeds[0]}): the intervals are over the test images alone, not over trainings."
    else:
        text = (
            f"{len(config.seeds)} seeds: the intervals are over test images and seeds; so few seeds make them narrow."
        )
    return [
        text + ' "Ours uncertain": the difference of two neighbours in the order, image by image, may be 0 (95 %).',
    ]
